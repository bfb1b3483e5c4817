"""The demo from beginning to end: starts the parts, drives them, watches, ends them in order, and writes what came of it."""

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import rich
from rich.live import Live

from bandits.store import Store
from protos.errors import ObservationsError
from protos.observation_reader import latest_revisions
from serving.client import PolicyClient
from serving.demo.drill import Drill
from serving.demo.page import page
from serving.demo.parts import Parts
from serving.demo.results import Results, results
from serving.demo.standing import standing
from serving.demo.story import story
from serving.demo.traffic import Load, Traffic
from serving.demo.view import Moment, picture
from serving.demo.world import World
from serving.demo.worlds import world_of
from serving.errors import DemoError

__all__ = ["Plan", "run_demo"]

_READY_S, _DRAIN_S = 60.0, 60.0
# Stands in a folder that the demo made, and may empty.
_MARK = ".slateloop-demo"
_REFRESH_S = 0.5
# From this share of the traffic on, the drill is ready and looks for the moment between two challengers of the learner.
_POLL_S, _DRILL_AT = 0.02, 0.35
# A drill that still waits for its verdict holds the end back, but not beyond this share.
_LONGEST = 1.25
_COLUMNS = ("decision_time_us", "snapshot_digest", "slot_propensity", "reward")


class Plan(NamedTuple):
    """`folder` is emptied first. Traffic ends after `seconds`, or after `decisions` if they come sooner. `task` has a world of its own."""

    folder: Path
    tasks: Path
    seconds: float
    decisions: int
    load: Load
    seed: int
    task: str = "digits"
    #: Kafka between server and joiner; empty = the joiner reads the server's own logs.
    bootstrap: str = ""

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def attribution(self) -> Path:
        return self.folder / "attribution"

    @property
    def observations(self) -> Path:
        return self.attribution / "observations"

    @property
    def config(self) -> Path:
        return self.served / f"{self.task}.yaml"

    @property
    def served(self) -> Path:
        """The tasks that the parts load: the demo's own. What else lies in `tasks` would cost the server its compilation."""
        return self.folder / "tasks"


def run_demo(plan: Plan) -> Mapping[str, Any]:
    """Runs the loop and returns the figures of summary.json. Raises DemoError if a part fails."""
    world = world_of(plan.task)
    _empty(plan.folder)
    _copy_task(plan)
    with Parts(plan.folder).all_ended() as parts:
        traffic = _start(plan, parts, world)
        seconds = _drive(plan, parts, traffic, title=world.told.title)
        traffic.finish()
        outcome = _end(plan, parts, traffic, seconds)
    extra = world.extra(_rows(plan, world.columns), moved_s=outcome.promoted_s, seed=plan.seed)
    outcome = dataclasses.replace(outcome, figures={**outcome.figures, **extra.figures})
    lines = [*story(outcome, folder=plan.folder, told=world.told), *extra.lines]
    (plan.folder / "summary.json").write_text(json.dumps(outcome.figures, indent=1) + "\n")
    (plan.folder / "index.html").write_text(page(outcome, lines=lines, title=world.told.title, parts=extra.parts))
    rich.print("\n".join(lines))
    return outcome.figures


def _empty(folder: Path) -> None:
    """An empty folder that bears the demo's mark. Raises DemoError rather than empty one that is somebody else's."""
    mark = folder / _MARK
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not mark.exists())):
        raise DemoError(f"--folder: {folder} is not empty and not the demo's own; give another one, or empty it yourself")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()


def _copy_task(plan: Plan) -> None:
    """The task's file alone, in a directory for the parts. Raises DemoError where there is none."""
    plan.served.mkdir()
    source = plan.tasks / plan.config.name
    if not source.is_file():
        raise DemoError(f"--tasks: {plan.tasks} holds no {source.name}; give the directory with the demo's task file")
    shutil.copyfile(source, plan.config)


def _rows(plan: Plan, columns: Sequence[str]) -> pa.Table:
    """The latest revisions of all decisions, oldest first."""
    return latest_revisions(plan.observations, task=plan.task, columns=[*_COLUMNS, *columns])


def _start(plan: Plan, parts: Parts, world: World) -> Traffic:
    """Starts server, joiner, learner and gate, each by its own command, and traffic once the server is ready."""
    address_file = plan.folder / "address"
    serve = ("--tasks", str(plan.served), "--store", str(plan.store), "--logs", str(plan.logs), "--address", "127.0.0.1:0")
    ship, source = _transport(plan, parts)
    # Where they answer stands in their output: `serving dashboard --folder` finds it there.
    asked = ("--set", "metrics_address=127.0.0.1:0")
    parts.start("server", "serving", "serve", *serve, "--address-file", str(address_file), "--final-heartbeat", *asked, *ship)
    address = parts.await_file(address_file, timeout_s=_READY_S)
    run = ("--out", str(plan.attribution), "--tasks", str(plan.served))
    parts.start("joiner", "attribution", "run", *source, *run, "--until-final", "--metrics-address", "127.0.0.1:0")
    common = ("--store", str(plan.store), "--observations", str(plan.observations), "--task-config", str(plan.config))
    parts.start("learner", "bandits", "learn", *common)
    parts.start("gate", "ope", "gate", "--watch", *common)
    traffic = Traffic(lambda: PolicyClient(address), world, plan.load, seed=plan.seed)
    traffic.start()
    return traffic


def _transport(plan: Plan, parts: Parts) -> tuple[Sequence[str], Sequence[str]]:
    """Options of server and joiner: how events get from one to the other. With a broker, its topics are made first."""
    if not plan.bootstrap:
        return (), ("--source", "embedded", "--logs", str(plan.logs))
    parts.start("topics", "attribution", "topics", "--bootstrap", plan.bootstrap, "--partitions", "2", "--replicas", "1")
    parts.await_end("topics", timeout_s=_READY_S)
    return ("--set", f"bootstrap={plan.bootstrap}"), ("--source", "kafka", "--bootstrap", plan.bootstrap)


def _drive(plan: Plan, parts: Parts, traffic: Traffic, *, title: str) -> float:
    """Watches until the time or the decisions are spent, planting the drill on the way; returns the seconds of traffic."""
    store, began = Store(plan.store, plan.task), time.monotonic()
    drill, shown, last = Drill(store), began, (began, 0)
    with Live(refresh_per_second=4) as live:
        while (share := _share(plan, traffic, began)) < 1.0 or (drill.waits and share < _LONGEST):
            time.sleep(_POLL_S)
            if share > _DRILL_AT:
                drill.step(now_us=_now_us())
            if time.monotonic() - shown > _REFRESH_S:
                parts.check()
                traffic.check()
                live.update(picture(_moment(plan, store, traffic, time.monotonic() - began, last), title=title))
                shown, last = time.monotonic(), (time.monotonic(), traffic.tally.answered)
    return time.monotonic() - began


def _share(plan: Plan, traffic: Traffic, began: float) -> float:
    """How much of the traffic is over: 1 = all of it."""
    return max((time.monotonic() - began) / plan.seconds, traffic.tally.answered / plan.decisions)


def _moment(plan: Plan, store: Store, traffic: Traffic, elapsed_s: float, last: tuple[float, int]) -> Moment:
    answered = traffic.tally.answered
    return Moment(
        elapsed_s=elapsed_s,
        limit_s=plan.seconds,
        answered=answered,
        rate=(answered - last[1]) / max(time.monotonic() - last[0], 1e-9),
        select_s=list(traffic.tally.select_s)[-500:],
        realised=_realised(plan, store),
        standing=standing(store, plan.observations),
    )


def _realised(plan: Plan, store: Store) -> float | None:
    """Mean reward of the champion's closed decisions of the last seconds."""
    pointer = store.champion()
    try:
        rows = latest_revisions(
            plan.observations, task=plan.task, decided_after_us=_now_us() - 10_000_000, columns=["snapshot_digest", "reward"]
        )
    except ObservationsError:
        return None
    mine = rows.filter(pc.equal(rows["snapshot_digest"], pointer.digest if pointer else ""))
    mean: float | None = pc.mean(mine["reward"]).as_py()
    return mean


def _end(plan: Plan, parts: Parts, traffic: Traffic, seconds: float) -> Results:
    """Ends the parts in the order of the stream, replays the log while the joiner reads its end, and gathers the figures."""
    parts.stop("learner", "gate", "server")
    parts.start("replay", "serving", "replay", "--logs", str(plan.logs), "--store", str(plan.store), "--json")
    parts.await_end("joiner", timeout_s=_DRAIN_S)
    parts.start("status", "attribution", "status", "--out", str(plan.attribution), "--tasks", str(plan.served), "--json")
    status = parts.report("status", timeout_s=_DRAIN_S)
    replay = parts.report("replay", timeout_s=_DRAIN_S)
    store = Store(plan.store, plan.task)
    pointer = store.champion()
    if pointer is None:
        raise DemoError("store: the task has no champion after the run; look at the parts' output")
    rows = _rows(plan, ())
    state = standing(store, plan.observations)
    return results(rows=rows, state=state, tally=traffic.tally, pointer=pointer, status=status, replay=replay, seconds=seconds)


def _now_us() -> int:
    return time.time_ns() // 1_000
