"""What the tests of this room share: two small tasks, snapshots to promote, requests, load, and a server to be killed."""

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from bandits.catalog import build
from bandits.config import TaskPolicy
from bandits.policy import Batch
from bandits.snapshots import Draft
from bandits.store import Store
from protos.log_files import read_log
from protos.policy_pb2 import Context, SelectRequest
from protos.task import load_tasks
from serving.client import PolicyClient
from serving.config import ServerConfig
from serving.server import Server

TASK = {
    "task": "shop",
    "features": {"context": [{"name": "weights", "size": 3, "default": 0.0}, {"name": "member", "type": "bool"}], "actions": list("abcde")},
    "policy": {"name": "linear_thompson", "slate_size": 3},
    "limits": {"max_candidates": 8, "max_slots": 3},
}
# A second task, of another tenant, whose candidates have features.
RANKED = {
    "task": "ranked",
    "tenant": "other",
    "features": {"context": [{"name": "age"}], "action": [{"name": "price", "default": 1.0}, {"name": "new", "type": "bool"}]},
    "policy": {"name": "uniform", "floor": 1.0, "slate_size": 3},
    "limits": {"max_candidates": 8, "max_slots": 3},
}
ROOT = Path(__file__).resolve().parents[2]
native_only = pytest.mark.skipif(find_spec("slateloop_front") is None, reason="slateloop-front is not built here: `make front`")
# What takes the calls of a server: what holds for one holds for the other.
FRONTS = ("grpcio", pytest.param("native", marks=native_only))


def written(folder: Path, *tasks: dict[str, Any]) -> Path:
    """The folder, with a file for each task."""
    for task in tasks:
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return folder


def publish(store: Store, shop: TaskPolicy, *, seed: int) -> str:
    """A snapshot of the task's own policy that has learned from random rows of the seed."""
    policy, rng = build(shop.spec), np.random.default_rng(seed)
    batch = Batch.of(rng.normal(size=(64, 4)), rng.integers(0, 5, 64), rng.normal(size=64))
    about = {"schema_digest": shop.schema.digest, "config_digest": shop.config_digest, "kind": "change", "created_us": seed}
    manifest = {"tenant": shop.tenant, "task": shop.name, "actions": shop.schema.actions, **about}
    return store.publish(Draft(spec=shop.spec, state=jax.jit(policy.update)(policy.init(), batch), manifest=manifest))


def promote(store: Store, digest: str, *, share: float = 1.0) -> None:
    """Makes a published snapshot the champion, or gives it a share of the traffic."""
    pointer = store.champion()
    assert pointer is not None
    verdict = {"decision": "promote", "challenger": digest, "champion": pointer.digest}
    store.promote(digest, verdict=verdict, expected=pointer, now_us=pointer.moved_us + 1, actor="test", share=share)


def select_request(shop: TaskPolicy, *, unit: str = "u", request_id: str = "", **fields: Any) -> SelectRequest:
    """A sound request, packed."""
    context = Context(packed=np.arange(4, dtype="<f4").tobytes(), schema_digest=shop.schema.digest)
    return SelectRequest(**{"task": "shop", "unit_id": unit, "request_id": request_id, "context": context, **fields})


def records_of(log: Path) -> list[Any]:
    """Everything that stands in a log: records and damage."""
    items: list[Any] = []
    chunk = read_log(log, offset=0)
    while chunk.items or chunk.next_offset != (items[-1].end if items else 0):
        items += chunk.items
        chunk = read_log(log, offset=chunk.next_offset)
    return items


@contextlib.contextmanager
def serving_from(folder: Path, tasks: Path, **settings: Any) -> Iterator[Server]:
    """A server of this process, on a store and logs below `folder`."""
    given = {"address": "127.0.0.1:0", "poll_s": 0.02, "heartbeat_s": 3600.0, "drain_grace_s": 1.0}
    config = ServerConfig(**{**given, **settings})
    server = Server(config, tasks=load_tasks(tasks), store=folder / "store", logs=folder / "logs")
    try:
        server.start()
        yield server
    finally:
        server.drain()


class Process:
    """`serving serve` in a process of its own, on a compilation cache that the session shares."""

    def __init__(self, folder: Path, tasks: Path, cache: Path, *flags: str, program: Sequence[str] = ("-m", "serving")) -> None:
        """`program`: what Python runs as `serving`."""
        self.folder, self._command = folder, [sys.executable, *program, "serve", "--tasks", str(tasks)]
        self._command += ["--store", str(folder / "store"), "--logs", str(folder / "logs"), "--address", "127.0.0.1:0"]
        self._command += ["--compilation-cache", str(cache), *flags]
        self._process: subprocess.Popen[str] | None = None
        self.output = ""

    def start(self) -> str:
        """Starts it and returns its address once it is ready."""
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("serving: "), line
        return line.split()[1]

    @property
    def lives(self) -> bool:
        """Was it started, and has it not ended?"""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """Processes that it has started and that live."""
        pid = self.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; its exit code."""
        assert self._process is not None and self._process.stdout is not None
        self._process.send_signal(number)
        code = self._process.wait(timeout=60)
        self._process.stdout.close()
        return code


def hammer(address: str, shop: TaskPolicy, *, workers: int, until: Callable[[], bool], batch: int = 1) -> tuple[list[Any], list[Exception]]:
    """Asks a server for slates from several threads; see `hammered`."""
    numbers = itertools.count()

    def ask(client: PolicyClient) -> Sequence[Any]:
        requests = [select_request(shop, request_id=f"r{next(numbers)}") for _ in range(batch)]
        return client.select_batch(requests) if batch > 1 else [client.send_select(requests[0])]

    return hammered(address, ask, workers=workers, until=until)


def hammered(
    address: str, ask: Callable[[PolicyClient], Sequence[Any]], *, workers: int, until: Callable[[], bool]
) -> tuple[list[Any], list[Exception]]:
    """Calls a server from several threads; the answers and the errors. `until` is asked before each call of the first worker."""
    answers: list[Any] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def work(first: bool) -> None:
        with PolicyClient(address) as client:
            while not stop.is_set():
                if first and until():
                    stop.set()
                try:
                    answers.extend(ask(client))
                except Exception as error:
                    errors.append(error)
                    stop.set()

    threads = [threading.Thread(target=work, args=(index == 0,)) for index in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, errors
