"""What the benchmarks of serving serve: a task, a store with a learned champion, and the bodies to send. Touches processes and disk."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import jax
import numpy as np
import yaml
from peers.serving_load import Load, Pinned, cores, framed, h2load

from bandits.catalog import build
from bandits.config import TaskPolicy, parse_task
from bandits.first import ensure_champion
from bandits.policy import Batch
from bandits.snapshots import Draft
from bandits.store import Store
from protos.events_pb2 import CandidateSet
from protos.policy_pb2 import AssignRequest, Context, SelectBatchRequest, SelectBatchResponse, SelectRequest, SelectResponse
from protos.task import load_task

__all__ = ["BATCH", "SERVICE", "TASK", "World", "checked", "promote", "world_in"]

ROOT = Path(__file__).resolve().parents[3]
SERVICE = "/slateloop.v1.PolicyService/"
ACTIONS = tuple(f"item-{index:02d}" for index in range(20))
CONTEXT, FEATURES, SLOTS, BATCH = 32, 16, 3, 64
# As in the measurements that the targets come from, the model is linear in its 32 features.
TASK = {
    "task": "bench",
    "features": {
        "context": [{"name": "context", "size": CONTEXT, "default": 0.0}],
        "action": [{"name": "features", "size": FEATURES, "default": 0.0}],
        "actions": list(ACTIONS),
    },
    "policy": {"name": "linear_thompson", "slate_size": SLOTS, "settings": {"basis": "linear"}},
    "limits": {"max_candidates": len(ACTIONS), "max_slots": SLOTS},
}


class World(NamedTuple):
    """A store with a learned champion, the tasks, the bodies to send, and the cores."""

    folder: Path
    core: int
    load_core: int
    front: str

    def server(self, name: str, *, threads: int, flags: Sequence[str] = ()) -> Pinned:
        """Our server on a log of its own."""
        command = [sys.executable, "-m", "serving", "serve", "--tasks", str(self.folder / "tasks"), "--store", str(self.folder / "store")]
        command += ["--logs", str(self.folder / f"logs-{name}"), "--address", "127.0.0.1:0", "--threads", str(threads)]
        command += ["--front", self.front]
        # Kept between runs: a cold start compiles for a minute.
        return Pinned([*command, "--compilation-cache", str(ROOT / ".bench" / "xla"), *flags], core=self.core)

    def echo(self, *, threads: int, front: str = "grpcio") -> Pinned:
        """The no-op echo, with the listener that `serving` takes: it answers a tenth to a fifth more with it."""
        command = [sys.executable, "tests/bench/peers/echo_server.py", "--threads", str(threads), "--front", front]
        return Pinned(command, core=self.core, env={"GRPC_EXPERIMENTS": "-event_engine_listener"})

    def load(self, server: Any, method: str, body: str, *, seconds: int, shape: tuple[int, int]) -> Load:
        """One run of h2load."""
        connections, streams = shape
        path = SERVICE + method
        return h2load(server, self.folder / body, path=path, core=self.load_core, seconds=seconds, connections=connections, streams=streams)


def world_in(folder: Path, *, front: str = "grpcio") -> World:
    """Makes the store and the bodies; `front` takes our calls."""
    (folder / "tasks").mkdir()
    (folder / "tasks" / "bench.yaml").write_text(yaml.safe_dump(TASK))
    task = parse_task(load_task(folder / "tasks" / "bench.yaml"))
    _publish(Store(folder / "store", "bench"), task)
    one = request(task)
    (folder / "one").write_bytes(framed(one.SerializeToString()))
    (folder / "batch").write_bytes(framed(SelectBatchRequest(requests=[one] * BATCH).SerializeToString()))
    (folder / "assign").write_bytes(framed(AssignRequest(task="bench", unit_id="member-1234567").SerializeToString()))
    return World(folder, *cores(), front)


def request(task: TaskPolicy) -> SelectRequest:
    """The request of the benchmark, packed."""
    rng = np.random.default_rng(0)
    context = Context(packed=rng.normal(size=CONTEXT).astype("<f4").tobytes(), schema_digest=task.schema.digest)
    features = rng.normal(size=(len(ACTIONS), FEATURES)).astype("<f4").tobytes()
    return SelectRequest(
        task="bench", unit_id="member-1234567", context=context, candidates=CandidateSet(actions=ACTIONS, packed_features=features)
    )


def _publish(store: Store, task: TaskPolicy) -> None:
    """Makes a policy the champion that has learned from 2,000 random rows, and keeps another beside it to reload."""
    ensure_champion(store, task, now_us=1)
    policy, rng = build(task.spec), np.random.default_rng(0)
    for created_us in (3, 2):
        batch = Batch.of(
            rng.normal(size=(2_000, CONTEXT)),
            rng.integers(0, 20, 2_000),
            rng.normal(size=2_000),
            features=rng.normal(size=(2_000, FEATURES)),
        )
        about = {"schema_digest": task.schema.digest, "config_digest": task.config_digest, "kind": "change", "created_us": created_us}
        manifest = {"tenant": task.tenant, "task": task.name, "actions": task.schema.actions, **about}
        promote(store, store.publish(Draft(spec=task.spec, state=jax.jit(policy.update)(policy.init(), batch), manifest=manifest)))


def promote(store: Store, digest: str) -> None:
    pointer = store.champion()
    assert pointer is not None
    verdict = {"decision": "promote", "challenger": digest, "champion": pointer.digest}
    store.promote(digest, verdict=verdict, expected=pointer, now_us=pointer.moved_us + 1, actor="bench")


def checked(world: World, server: Any) -> None:
    """One call of a real client: h2load looks at no gRPC status."""
    with grpc.insecure_channel(server.address) as channel:
        answer = SelectResponse.FromString(channel.unary_unary(SERVICE + "Select")((world.folder / "one").read_bytes()[5:]))
        batch = SelectBatchResponse.FromString(channel.unary_unary(SERVICE + "SelectBatch")((world.folder / "batch").read_bytes()[5:]))
    assert answer.logged and len(answer.slots) == SLOTS and answer.policy == "linear_thompson", answer
    assert len(batch.results) == BATCH and all(item.response.logged for item in batch.results), batch.results[0]
