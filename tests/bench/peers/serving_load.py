"""What the benchmark of serving drives: servers pinned to one core, and h2load pinned to another. Touches processes and disk."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Load", "Pinned", "cores", "family", "framed", "h2load"]

ROOT = Path(__file__).resolve().parents[3]


class Load(NamedTuple):
    """What one run of h2load found: requests a second, failed requests, and CPU time of the server by request, microseconds."""

    rate: float
    failed: int
    cpu_us: float


class Pinned:
    """A server process on one core that prints `serving: HOST:PORT` once it is ready. A context manager."""

    def __init__(self, command: Sequence[str], *, core: int, env: dict[str, str] | None = None) -> None:
        # Open for as long as the server lives.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        while line and not line.startswith("serving: "):
            line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(self._errors.read()[-2000:].decode(errors="replace"))
        _, self.address, *title = line.split()
        #: What the server says of itself behind its address.
        self.title = " ".join(title)

    def __enter__(self) -> "Pinned":
        return self

    def __exit__(self, *_: object) -> None:
        # Some stacks start processes in sessions of their own, which outlive them and go on taking time.
        started = [pid for pid in family(self.pid) if pid != self.pid]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        _signal(started, signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Takes no time from whoever is measured within: some stacks keep a core busy while nobody asks."""
        stopped = list(family(self.pid))
        _signal(stopped, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(stopped, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def resident_mib(self) -> float:
        """Memory of the server's own process that is in RAM."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_s(self) -> float:
        """CPU time of the server and of whatever it started, seconds."""
        total = 0
        for pid in family(self.pid):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """A process and whatever it started, as far as it still runs."""
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        # Some come and go.
        with contextlib.suppress(OSError):
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            waiting += [int(child) for task in tasks for child in (task / "children").read_text().split()]
            yield one


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def cores() -> tuple[int, int]:
    """The core of the servers and the core of the load."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        sys.exit("serving benchmark: needs two cores, one for the server and one for the load")
    return found[0], found[1]


def framed(message: bytes) -> bytes:
    """One length-prefixed gRPC message, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def h2load(
    server: Any, body: Path, *, path: str, core: int, seconds: int, connections: int, streams: int, kind: str = "application/grpc"
) -> Load:
    """Closed-loop load for some seconds, after a second of warming."""
    program = shutil.which("h2load")
    if program is None:
        sys.exit("serving benchmark: h2load is missing; install nghttp2-client (Debian, Ubuntu) or nghttp2 (Homebrew)")
    command = [
        "taskset",
        "-c",
        str(core),
        program,
        "-t1",
        f"-c{connections}",
        f"-m{streams}",
        "-d",
        str(body),
        "-H",
        f"content-type: {kind}",
    ]
    command += ["-H", "te: trailers"] if kind == "application/grpc" else ["--h1"]
    before_s = server.cpu_s()
    ended = subprocess.run(
        [*command, f"--duration={seconds}", "--warm-up-time=1", f"http://{server.address}{path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    rate = float(re.search(r"([\d.]+) req/s", ended.stdout).group(1))
    succeeded, failed = (int(re.search(rf"(\d+) {word}", ended.stdout).group(1)) for word in ("succeeded", "failed"))
    bad = re.search(r"(\d+) 4xx, (\d+) 5xx", ended.stdout)
    cpu_us = (server.cpu_s() - before_s) / max(rate * (seconds + 1.0), 1.0) * 1e6
    return Load(rate, failed + sum(map(int, bad.groups())) + (succeeded == 0), cpu_us)
