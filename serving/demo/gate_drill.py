"""The drill of the gate: challengers whose truth is known are planted in a running loop, and each must end as it should.

A worse one, one that breaks a guardrail, one that was learned from a log with corrupted propensities: stopped. A better one: promoted,
step by step. When that one then breaks the guardrail, it is rolled back, and nobody touches a key.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from bandits.catalog import PolicySpec, build
from bandits.config import parse_task
from bandits.errors import UnknownSnapshot
from bandits.snapshots import Draft
from bandits.store import Store
from protos.errors import ObservationsError
from protos.observation_copy import write_copy
from protos.observation_reader import latest_revisions
from protos.task import load_task
from serving.client import PolicyClient
from serving.demo.offers import TASK, Offers, now_us
from serving.demo.parts import Part, Parts
from serving.errors import DemoError

__all__ = ["Act", "run_drill"]

_READY_S, _ACT_S = 60.0, 120.0
_POLL_S = 0.03
_CORRUPTED_ROWS = 1_500
_MARK = ".slateloop-drill"


class Act(NamedTuple):
    """What was planted, what should have become of it, and what did; `because` is the verdict's or the audit log's own sentence."""

    planted: str
    expected: str
    became: str
    because: str

    @property
    def passed(self) -> bool:
        """Whether it ended as it should."""
        return self.became == self.expected


def run_drill(folder: Path, *, config: Path, seed: int = 1) -> list[Act]:
    """Runs every act, and returns what became of each. Raises DemoError if a part of the loop fails, or an act does not end in time."""
    _empty(folder)
    with Parts(folder).all_ended() as parts, _Stage(folder, config, parts, seed=seed) as stage:
        acts = [
            stage.corrupted(),
            stage.contest("a worse challenger", [0.1, 0.1, 0.7, 0.1], expected="hold"),
            stage.contest("a challenger that breaks a guardrail", [0.1, 0.1, 0.1, 0.7], expected="veto"),
            stage.contest("a better challenger", [0.7, 0.1, 0.1, 0.1], expected="promote"),
            stage.turned(),
        ]
    (folder / "drill.json").write_text(json.dumps([{**act._asdict(), "passed": act.passed} for act in acts], indent=1) + "\n")
    return acts


class _Stage:
    """The running loop, and who is planted in it."""

    def __init__(self, folder: Path, config: Path, parts: Parts, *, seed: int) -> None:
        self._folder, self._config, self._parts, self._seed = folder, config, parts, seed
        self._task = parse_task(load_task(config))
        self._store = Store(folder / "store", TASK)
        self._observations = folder / "attribution" / "observations"

    def __enter__(self) -> "_Stage":
        folder, tasks, address_file = self._folder, self._config.parent, self._folder / "address"
        serve = ("--tasks", str(tasks), "--store", str(folder / "store"), "--logs", str(folder / "logs"), "--address", "127.0.0.1:0")
        self._parts.start("server", "serving", "serve", *serve, "--address-file", str(address_file))
        address = self._parts.await_file(address_file, timeout_s=_READY_S)
        run = ("--source", "embedded", "--logs", str(folder / "logs"), "--out", str(folder / "attribution"), "--tasks", str(tasks))
        self._parts.start("joiner", "attribution", "run", *run)
        self._caller = PolicyClient(address)
        self._offers = Offers(self._caller, seed=self._seed)
        return self

    def __exit__(self, *_: object) -> None:
        self._caller.close()

    def corrupted(self) -> Act:
        """Judged on a copy of the table whose propensities are halved, by the command that an engineer would use."""
        digest = self._plant("corrupted propensities", [0.7, 0.1, 0.1, 0.1])
        since_us = self._store.manifest(digest).training_watermark_us
        self._until(lambda: self._rows(since_us).num_rows >= _CORRUPTED_ROWS, "rows to corrupt")
        rows = latest_revisions(self._observations, task=TASK)
        halved = pa.array([[max(numerator // 2, 1) for numerator in slots] for slots in rows["slot_numerator"].to_pylist()])
        place = rows.schema.get_field_index("slot_numerator")
        copy = self._folder / "corrupted"
        write_copy(copy, rows.set_column(place, rows.schema.field(place), halved.cast(rows.schema.field(place).type)))
        # Not among the parts of the loop: it ends with the exit code of a veto.
        once = Part("gate-once", ("ope", "gate", *self._gate_flags(copy), "--json"), self._folder)
        verdict = once.report(timeout_s=_ACT_S)
        self._store.close_challenger(digest, self._store.put_verdict(verdict))
        # From here on the gate runs beside the loop.
        self._parts.start("gate", "ope", "gate", "--watch", "--poll-s", "0.2", *self._gate_flags(self._observations))
        return Act("a challenger trained on corrupted propensities", "veto", verdict["decision"], verdict["reasons"][0])

    def contest(self, planted: str, probabilities: list[float], *, expected: str) -> Act:
        """Traffic until the challenger has its last verdict."""
        digest = self._plant(planted, probabilities)
        self._until(lambda: not self._store.challengers(), planted)
        closed = next(item for item in self._store.challengers(closed=True) if item.digest == digest)
        verdict = self._store.verdict(closed.verdict)
        pointer = self._store.champion()
        serves = pointer is not None and pointer.digest == digest
        steps = sum(entry["action"] == "stage" and entry["challenger"] == digest for entry in self._store.audit())
        told = f"{steps + 1} steps. " if serves else ""
        became = verdict["decision"] if serves == (verdict["decision"] == "promote") else f"{verdict['decision']}, but it serves: {serves}"
        return Act(planted, expected, became, told + verdict["reasons"][0])

    def turned(self) -> Act:
        """The world turns against the promoted one; the gate takes it back by itself."""
        pointer = self._store.champion()
        assert pointer is not None
        self._offers.turn()
        self._until(lambda: self._store.champion() != pointer, "a rollback")
        undone, now = self._store.audit()[-1], self._store.champion()
        quotes = undone["action"] == "rollback" and undone["quoted"] == pointer.verdict and self._is_kept(undone["evidence"])
        back = now is not None and now.digest == pointer.previous and quotes
        return Act(
            "a promoted one that then breaks a guardrail", "rolled back", "rolled back" if back else undone["action"], undone["reason"]
        )

    def _plant(self, label: str, probabilities: list[float]) -> str:
        """Publishes a policy with declared probabilities and enters it as challenger; it is judged on what comes from now on."""
        spec = PolicySpec.of("fixed", {"probabilities": probabilities}, floor=self._task.section.floor, dims=self._task.spec.dims)
        moment = now_us()
        manifest = {
            "tenant": self._task.tenant,
            "task": TASK,
            "actions": self._task.schema.actions,
            "schema_digest": self._task.schema.digest,
            "config_digest": self._task.config_digest,
            "kind": "change",
            "training_watermark_us": moment,
            "created_us": moment,
            "label": f"drill: {label}",
        }
        digest = self._store.publish(Draft(spec=spec, state=build(spec).init(), manifest=manifest))
        self._store.challenge(digest, now_us=moment)
        return digest

    def _until(self, ended: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _ACT_S
        while not ended():
            if time.monotonic() > deadline:
                raise DemoError(f"drill: {what} did not come within {_ACT_S:.0f} s; the parts' output is in {self._folder}")
            self._parts.check()
            self._offers.batch()
            time.sleep(_POLL_S)

    def _rows(self, since_us: int) -> pa.Table:
        try:
            return latest_revisions(self._observations, task=TASK, decided_after_us=since_us, columns=["decision_id"])
        except ObservationsError:
            return pa.table({"decision_id": []})

    def _is_kept(self, verdict_id: str) -> bool:
        try:
            return bool(self._store.verdict(verdict_id))
        except UnknownSnapshot:
            return False

    def _gate_flags(self, observations: Path) -> tuple[str, ...]:
        return ("--store", str(self._folder / "store"), "--observations", str(observations), "--task-config", str(self._config))


def _empty(folder: Path) -> None:
    """An empty folder that bears the drill's mark. Raises DemoError rather than empty one that is somebody else's."""
    mark: Any = folder / _MARK
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not mark.exists())):
        raise DemoError(f"--folder: {folder} is not empty and not the drill's own; give another one, or empty it yourself")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()
