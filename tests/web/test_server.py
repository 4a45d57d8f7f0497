"""Opening the room from the command line: what is refused, in one sentence, and what is said."""

import dataclasses
import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.web.serving import Server
from tests.web.student import config
from tutelage import cli, verbs
from tutelage.experiment.config import to_json
from tutelage.web.server import is_here


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in; add --accounts, or stay on 127.0.0.1"),
        (["--store", "sqlite:///l.sqlite", "--host", "lab.example"], "--host lab.example lets other machines in; add --accounts"),
        (["run", "--host", "::"], "--host :: lets other machines in"),
        (["run", "--tls-cert", "cert.pem"], "--tls-key is missing: https needs a certificate and its key"),
        (["run", "--tls-cert", "cert.pem", "--tls-key", "key.pem"], "there is no file cert.pem"),
        ([], "rate was given neither a run nor --store; one is needed"),
        (["run", "--store", "sqlite:///l.sqlite"], "rate was given a run and --store; one is needed"),
        (["absent"], "absent is no run: it has no config.json"),
        (["scripted"], "scripted asks a scripted teacher and hears nobody else"),
        (["run", "--clip-quota", "-1"], "--clip-quota -1.0 was given; a positive number of GiB is needed"),
        (["--store", "nonsense"], "no store opens by this URL"),
        (["--store", "sqlite:///absent/l.sqlite"], "there is no directory absent"),
        (["run", "--acounts"], "has no option --acounts; did you mean --accounts?"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for name, rater in (("run", "human"), ("scripted", "oracle")):
        (tmp_path / name).mkdir()
        told = dataclasses.replace(config(4), rater=rater)
        (tmp_path / name / "config.json").write_text(json.dumps(to_json(told)))
    assert cli.main(["rate", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_only_this_machines_own_addresses_are_here():
    assert all(map(is_here, ("127.0.0.1", "127.0.0.2", "::1", "localhost")))
    assert not any(map(is_here, ("0.0.0.0", "::", "192.168.0.1", "example.org", "", "localhost.example.org")))


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    server = Server("--store", f"sqlite:///{tmp_path / 'l.sqlite'}", "--accounts", "--runs", str(tmp_path))
    try:
        other = ["rate", "--store", f"sqlite:///{tmp_path / 'm.sqlite'}", "--port", server.port]
        assert cli.main(other) == 2
        assert "Address already in use" in capsys.readouterr().err
    finally:
        server.stop()


def test_it_speaks_https_with_a_certificate_of_ones_own(tmp_path: Path):
    vendor = Path(__file__).parent / "vendor"
    certificate, key = vendor / "localhost-certificate.pem", vendor / "localhost-key.pem"  # self-signed, for this test alone
    store = f"sqlite:///{tmp_path / 'l.sqlite'}"
    server = Server("--store", store, "--accounts", "--runs", str(tmp_path), "--tls-cert", str(certificate), "--tls-key", str(key))
    try:
        assert server.address.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(certificate))
        answer = httpx.get(f"{server.address}/login", verify=trusting)
        assert answer.status_code == 200
        assert httpx.get(server.link, verify=trusting, follow_redirects=True).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{server.address}/login", verify=ssl.create_default_context())
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{server.port}/login")
    finally:
        server.stop()


def test_a_run_that_a_person_teaches_opens_its_page_and_closes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    happened: list[str] = []

    class Page:
        def __init__(self, command: list[str]) -> None:
            assert (tmp_path / "run" / "events.jsonl").exists(), "there must be something to look at"
            happened.append(" ".join(command[1:]))

        def terminate(self) -> None:
            happened.append("ended")

        def wait(self) -> None:
            happened.append("gone")

    monkeypatch.setattr(verbs, "Popen", Page)
    flags: dict[str, Any] = {
        "steps": 30,
        "sac.hidden": 8,
        "sac.batch-size": 8,
        "sac.random-steps": 10,
        "clips": 0,
        "evaluation-episodes": 1,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    out = tmp_path / "run"
    assert cli.main(["train", "pebble", "--game", "gym:Pendulum-v1", "--rater", "human", "--out", str(out), *words]) == 0
    assert happened == [f"-m tutelage.cli rate {out}", "ended", "gone"]
