"""The processes of the demo: each part of the loop, started by its own command, its output kept in a file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import DemoError

__all__ = ["Part", "Parts"]

_STOP_S = 20.0


class Part:
    """One running process."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        self._told = False
        with self.output.open("wb") as file:
            self._process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=file, stderr=subprocess.STDOUT, env=_environment())

    def check(self) -> None:
        """Raises DemoError, with the end of its output, if the process has ended badly."""
        # Told to stop while it was still starting, a part has nothing to end in order: the signal itself ends it.
        fine = (None, 0, -signal.SIGTERM) if self._told else (None, 0)
        if self._process.poll() not in fine:
            tail = "\n".join(self.output.read_text(errors="replace").splitlines()[-15:])
            raise DemoError(f"{self.name}: ended with exit code {self._process.returncode}; its output ({self.output}) ends:\n{tail}")

    def stop(self) -> None:
        """Asks the process to end, and waits for it."""
        if self._process.poll() is None:
            self._told = True
            self._process.send_signal(signal.SIGTERM)
        self.wait(_STOP_S)

    def wait(self, timeout_s: float) -> None:
        """Waits for the end. Raises DemoError if it does not come, or is a bad one."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            raise DemoError(f"{self.name}: did not end within {timeout_s:.0f} s; its output is in {self.output}") from error
        self.check()

    def report(self, timeout_s: float) -> dict[str, Any]:
        """The JSON object that the process prints before it ends, whatever its exit code says of the content."""
        with contextlib.suppress(DemoError):
            self.wait(timeout_s)
        text = self.output.read_text(errors="replace")
        try:
            report: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise DemoError(f"{self.name}: printed no JSON (exit code {self._process.returncode}): {text[-2000:]}") from error
        return report

    def kill(self) -> None:
        """Ends the process at once, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Parts:
    """The running parts by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[str, Part] = {}

    def start(self, name: str, *arguments: str) -> Part:
        """Starts `python -m ARGUMENTS`."""
        self._parts[name] = Part(name, arguments, self._folder)
        return self._parts[name]

    def check(self) -> None:
        """Raises DemoError if any part has ended badly."""
        for part in self._parts.values():
            part.check()

    def stop(self, *names: str) -> None:
        """Asks parts to end, one after the other."""
        for name in names:
            self._parts[name].stop()

    def await_end(self, name: str, *, timeout_s: float) -> None:
        """Waits until a part ends by itself. Raises DemoError if it does not, or ends badly."""
        self._parts[name].wait(timeout_s)

    def report(self, name: str, *, timeout_s: float) -> dict[str, Any]:
        """The JSON object that a part prints before it ends; a replay that disagrees prints it too, and ends with 1."""
        return self._parts[name].report(timeout_s)

    def await_file(self, path: Path, *, timeout_s: float) -> str:
        """The text of a file that a part writes when it is ready. Raises DemoError if it does not appear in time."""
        deadline = time.monotonic() + timeout_s
        while not path.exists():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{path.name}: did not appear within {timeout_s:.0f} s; the parts' output is in {self._folder}")
            time.sleep(0.05)
        return path.read_text().strip()

    @contextlib.contextmanager
    def all_ended(self) -> Iterator["Parts"]:
        """No process outlives the demo, however it ends."""
        try:
            yield self
        finally:
            for part in self._parts.values():
                part.kill()


def _environment() -> Mapping[str, str]:
    """One thread a library: four processes share the machine."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    return {**os.environ, **single, "PYTHONUNBUFFERED": "1"}
