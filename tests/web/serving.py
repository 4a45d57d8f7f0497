"""The rating room as a process, for tests that look at it from outside."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}


class Server:
    """`tutelage rate` in a process of its own, which can be killed and started again at the same address."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.port = "0"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tutelage.cli", "rate", *self.arguments, "--port", self.port, "--no-browser"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        if "--accounts" in self.arguments and "open:" in self.said:
            self.said += self.process.stdout.readline() if self.port == "0" else ""
        self.link = self.said.split()[-1]
        self.port = self.link.split(":")[2].split("/")[0]
        self.address = f"{self.link.split(':')[0]}://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) in (0, -signal.SIGTERM, -signal.SIGKILL)
