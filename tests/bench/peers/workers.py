"""Peers in an environment of their own, each answering in a process of its own. Touches disk, network and processes."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Answer", "Worker", "installed"]

HERE = Path(__file__).resolve().parent
# One thread, as ours has: what is compared is the work, not how many cores it is spread over.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Answer(NamedTuple):
    """What a peer says: a value, or why there is none."""

    value: Any
    error: str


def installed(packages: tuple[str, ...], *, folder: Path) -> tuple[Path, dict[str, str]]:
    """The interpreter of a virtual environment in `folder` with these packages, made where it is not there yet; and, by package, what
    went wrong. Says first, on stderr, what it installs where."""
    python = folder / "bin" / "python"
    print(f"peers: installs {', '.join(packages)} into {folder} (none of them is a dependency)", file=sys.stderr, flush=True)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    faults = {}
    for package in packages:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
        ended = subprocess.run(pip, capture_output=True, text=True, check=False)
        if ended.returncode:
            faults[package] = (ended.stderr.strip().splitlines() or ["pip failed"])[-1]
    return python, faults


class Worker:
    """One peer's process. A context manager."""

    def __init__(self, python: Path, peer: str, *, script: str = "policy_peers.py") -> None:
        self.peer = peer
        environment = {**os.environ, **_ONE_THREAD}
        command = [str(python), str(HERE / script)]
        # What libraries print to stderr is no answer.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )

    @property
    def title(self) -> str:
        """The peer's name with its version."""
        return f"{self.peer} {self.ask('version').value or ''}".strip()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def ask(self, task: str, **request: Any) -> Answer:
        """The answer to one request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"peer": self.peer, "task": task, **request}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended with code {self._process.poll()}"}
        return Answer(answer.get("value"), answer.get("error", ""))
