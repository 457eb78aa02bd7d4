"""One program run, measured from outside: wall time from start to exit, CPU seconds of all its threads, and the peak of
its private memory. Private is what `RssAnon` counts: mapped checkpoint files are the kernel's to drop and do not count.
"""

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

INTERVAL = 0.005  # seconds between two looks at the memory; a shorter peak can escape


class Measured(NamedTuple):
    wall: float
    cpu: float
    private: int
    stdout: str


def measure(command: list[str], environment: dict[str, str] | None = None) -> Measured:
    """Runs `command` to its end; SystemExit with the end of its stderr if it fails."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=os.environ | (environment or {})
        )
        watch = Watch(process.pid)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        watch.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            raise SystemExit(f"error: {' '.join(command)} ended with {process.returncode}\n{stderr.read()[-3000:]}")
        return Measured(wall, usage.ru_utime + usage.ru_stime, watch.peak, stdout.read())


class Watch(threading.Thread):
    """Looks at a process's private memory until told to stop."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.status = Path(f"/proc/{process}/status")
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(INTERVAL):
            self.peak = max(self.peak, self.private())

    def private(self) -> int:
        try:
            lines = self.status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)

    def stop(self) -> None:
        self.ended.set()
        self.join()
