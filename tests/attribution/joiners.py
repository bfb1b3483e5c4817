"""Joiner processes that can be killed at a named point, or at any moment. Each is forked from one that has imported everything: a start
takes milliseconds, and the kill is a real one.

    python tests/attribution/joiners.py      reads one JSON object a line (the fields of Orders), answers with one a line
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Orders:
    """What one process is to do: join until the input has ended, or until it dies.

    `kill_at` and `kill_after`: the point, and how many times it is passed alive; `kill_in_s`: after so many seconds, wherever it is then.
    `broken` joins without the check of positions, and lands each batch again after a restart: what the checker must see.
    """

    bootstrap: str
    prefix: str
    out: str
    tasks: str
    kill_at: str = ""
    kill_after: int = 0
    kill_in_s: float = 0.0
    group: str = ""
    member: str = ""
    max_records: int = 200
    broken: bool = False


class Joiners:
    """Starts joiner processes."""

    def __init__(self) -> None:
        # The command is this file, run by path: `-m` would import pytest's idea of it.
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, orders: Orders) -> dict[str, Any]:
        """Runs one to its end: {"died": bool, "error": text, "caught_up_s": seconds from ready to the end of the backlog}."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(orders)) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextlib.contextmanager
def joiners() -> Iterator[Joiners]:
    started = Joiners()
    try:
        yield started
    finally:
        started.close()


def _serve() -> None:
    for line in sys.stdin:
        orders = Orders(**json.loads(line))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os._exit(_child(orders, write))
        os.close(write)
        said = b""
        while piece := os.read(read, 65536):
            said += piece
        os.close(read)
        _, status = os.waitpid(child, 0)
        died = os.WIFSIGNALED(status)
        report = json.loads(said) if said else {"error": "" if died else "said nothing"}
        print(json.dumps({"died": died, **report}), flush=True)


def _child(orders: Orders, write: int) -> int:
    try:
        report = {"error": "", "caught_up_s": _join(orders)}
    except Exception as error:
        report = {"error": f"{type(error).__name__}: {error}"}
    os.write(write, json.dumps(report).encode())
    return 0


def _join(orders: Orders) -> float:
    from attribution.kafka_source import KafkaSource
    from attribution.membership import Membership
    from attribution.settings import load_join_config
    from attribution.tables import PositionedTable
    from attribution.worker import Worker, run_worker

    if orders.broken:
        PositionedTable.position = lambda self, app: None
        PositionedTable._check = lambda self, app: None
    members = None
    if orders.group:
        members = Membership(orders.bootstrap, group=orders.group, name=orders.member or None, session_s=6.0, prefix=orders.prefix)
    source = KafkaSource(orders.bootstrap, prefix=orders.prefix, max_records=orders.max_records, timeout_s=0.1, members=members)
    began = time.monotonic()
    worker = Worker(source, out=Path(orders.out), config=load_join_config(Path(orders.tasks)), at_point=_killer(orders))
    run_worker(worker, poll_s=0.0, stop=threading.Event(), until_final=True, on_progress=lambda progress: None)
    caught_up_s = time.monotonic() - began
    source.close()
    return caught_up_s


def _killer(orders: Orders) -> Callable[[str], None]:
    passed = 0

    def at_point(name: str) -> None:
        nonlocal passed
        passed += name == orders.kill_at
        if passed > orders.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    if orders.kill_in_s:
        timer = threading.Timer(orders.kill_in_s, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    return at_point


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    import attribution.__main__  # noqa: F401 (everything that a child needs)

    _serve()
