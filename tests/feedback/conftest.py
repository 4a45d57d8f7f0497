"""Databases to test the store on: SQLite always, PostgreSQL where there is one."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa


def find_initdb() -> Path | None:
    """Debian keeps PostgreSQL's server programs off the PATH; the newest version wins."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return debian[-1] if debian else Path(on_path) if on_path else None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a server in which databases may be made: the named one, or a private one that ends with the session."""
    pytest.importorskip("psycopg", reason="PostgreSQL's driver psycopg is not installed")
    if "TUTELAGE_POSTGRES_URL" in os.environ:
        yield os.environ["TUTELAGE_POSTGRES_URL"]
        return
    initdb = find_initdb()
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: no TUTELAGE_POSTGRES_URL and no initdb")
    as_owner: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="tutelage-postgresql-"))  # pytest's own folders are closed to other users
    try:
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres")
            as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]

        def control(*arguments: str) -> None:
            subprocess.run([*as_owner, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = str(folder / "data")
        control(str(initdb), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c max_connections=50"
        server = str(initdb.with_name("pg_ctl"))
        control(server, "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            control(server, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """A database of this test's own."""
    name = f"tutelage_{uuid.uuid4().hex}"
    server = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield sa.make_url(postgresql).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'feedback.sqlite'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The test runs once on each kind of database."""
    get: Callable[[str], str] = request.getfixturevalue
    return get(f"{request.param}_url")
