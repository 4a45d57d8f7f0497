"""Starting the room: where it may listen, and the link by which the first person comes in."""

import ipaddress
import socket
import webbrowser
from pathlib import Path

import uvicorn
from rich.console import Console

from tutelage.feedback.query import FeedbackError
from tutelage.web.app import Settings, create_app, home_link, owner_link

PORT = 8765


class RoomError(FeedbackError):
    """A room that cannot be opened as asked; one sentence: what was given, what is needed."""


def check(host: str, accounts: bool, tls_cert: Path | None, tls_key: Path | None) -> None:
    """Raises RoomError for an address that strangers can reach without accounts, and for half of a certificate."""
    if not is_here(host) and not accounts:
        raise RoomError(f"--host {host} lets other machines in; add --accounts, or stay on 127.0.0.1")
    if (tls_cert is None) != (tls_key is None):
        missing = "--tls-key" if tls_key is None else "--tls-cert"
        raise RoomError(f"{missing} is missing: https needs a certificate and its key")
    for path in (tls_cert, tls_key):
        if path is not None and not path.is_file():
            raise RoomError(f"there is no file {path}; https needs a certificate and its key, both PEM")


def is_here(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(settings: Settings, host: str, port: int | None, tls_cert: Path | None, tls_key: Path | None, browser: bool) -> None:
    """Serve until interrupted or terminated. Raises StoreError for the store, OSError where it may not listen."""
    console = Console(soft_wrap=True, highlight=False)
    app = create_app(settings)
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http{'s' if settings.tls else ''}://{shown}:{listening.getsockname()[1]}"
    if not is_here(host) and not settings.tls:
        console.print("warning: without --tls-cert and --tls-key, passwords and answers travel in the clear")
    if settings.accounts:
        link = owner_link(app)
        console.print(f"the rating room is open: {address}")
        if link is not None:
            console.print(f"make the first owner's account here, once: {address}{link}")
    else:
        link = home_link(app)
        console.print(f"teach here: {address}{link}")
    quiet = {"log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(app, timeout_keep_alive=75, timeout_graceful_shutdown=3, ssl_certfile=tls_cert, ssl_keyfile=tls_key, **quiet)
    if browser and link is not None and not settings.accounts:
        webbrowser.open(f"{address}{link}")  # it waits: the socket listens already
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, PORT if port is None else port), family=family, backlog=512)
    except OSError:
        if port is not None:
            raise
        return socket.create_server((host, 0), family=family, backlog=512)
