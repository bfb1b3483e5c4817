"""Other serving stacks with Vowpal Wabbit's SquareCB behind them, each in an environment of its own. Touches processes and disk."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from peers.serving_load import Load, Pinned, family, h2load
from peers.workers import installed

__all__ = ["PEERS", "Peer", "peer_server"]

HERE = Path(__file__).resolve().parent


class Stack(NamedTuple):
    """What a peer needs: packages, the path that answers, and how many times faster than it we mean to be.

    `answering`: names of the processes that a request passes through, where the stack has others; those are moved to the spare core.
    """

    packages: tuple[str, ...]
    path: str
    target: float
    answering: tuple[str, ...] = ()


PEERS = {
    "fastapi": Stack(("fastapi", "uvicorn[standard]", "orjson"), "/select", 1.5),
    "litserve": Stack(("litserve",), "/predict", 7.0),
    "bentoml": Stack(("bentoml",), "/select", 7.0),
    "mlserver": Stack(("mlserver",), "/v2/models/squarecb/infer", 3.0),
    # Some ten processes, of which a request sees two: on one core the others take most of it, which is not what is compared.
    "ray": Stack(("ray[serve]",), "/", 10.0, answering=("ProxyActor", "ServeReplica")),
}


class Peer(NamedTuple):
    """A running peer."""

    title: str
    server: Pinned
    body: Path
    path: str

    def load(self, *, core: int, seconds: int) -> Load:
        """One run of h2load, JSON over HTTP/1 by 32 connections."""
        kind = "application/json"
        return h2load(self.server, self.body, path=self.path, core=core, seconds=seconds, connections=32, streams=1, kind=kind)


@contextlib.contextmanager
def peer_server(name: str, *, folder: Path, scratch: Path, core: int, spare: int) -> Iterator[tuple[Peer | None, str]]:
    """A peer, alone on the core but for us, or why it is not there: what others do in the background is nobody's time.

    `spare`: the core for those of its processes that no request passes through.
    """
    stack = PEERS[name]
    python, faults = installed(("vowpalwabbit", "numpy", *stack.packages), folder=folder / name)
    if faults:
        yield None, f"cannot be installed: {'; '.join(f'{package}: {fault}' for package, fault in faults.items())}"
        return
    body = scratch / f"body-{name}.json"
    body.write_text(json.dumps(_body(name)))
    with contextlib.ExitStack() as running:
        try:
            server = running.enter_context(Pinned([str(python), str(HERE / "stack_peers.py"), name], core=core))
        except RuntimeError as error:
            yield None, f"does not start: {str(error).strip().splitlines()[-1:]}"
            return
        if stack.answering:
            move_others(server.pid, answering=stack.answering, core=spare)
        yield Peer(server.title, server, body, stack.path), ""


def move_others(pid: int, *, answering: tuple[str, ...], core: int) -> None:
    """Moves a process and whatever it started to a core, but for the processes of these names."""
    for found in family(pid):
        one = Path(f"/proc/{found}")
        # Some come and go.
        with contextlib.suppress(OSError):
            if not any(name in (one / "cmdline").read_text() for name in answering):
                for task in (one / "task").iterdir():
                    os.sched_setaffinity(int(task.name), {core})


def _body(name: str) -> Any:
    import numpy as np

    rng = np.random.default_rng(0)
    context, candidates = rng.normal(size=32).round(4).tolist(), rng.normal(size=(20, 16)).round(4).tolist()
    request = {"unit": "member-1234567", "context": context, "candidates": candidates}
    if name == "bentoml":
        return {"request": request}
    if name == "mlserver":
        flat = [*context, *(number for row in candidates for number in row)]
        return {"inputs": [{"name": "request", "shape": [1, len(flat)], "datatype": "FP32", "data": flat}]}
    return request


if __name__ == "__main__":
    sys.exit("run tests/bench/serving.py")
