"""The gate's loop over a real store and a real table, with pictures of digits as the environment."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from bandits.errors import SnapshotError
from bandits.learner import Learner
from bandits.store import Store
from ope.__main__ import main
from ope.errors import VerdictError
from ope.gate.config import gate_config
from ope.gate.promotion import promote
from ope.gate.verdict import Verdict, to_mapping
from ope.gate.watch import Watch
from ope.snapshot_rows import closed_until_us
from tests.ope.digits_world import TASK_FILE, World, begin

TRAINING_ROWS = 3_000


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world whose learner has published one challenger."""
    world = begin(tmp_path)
    world.live(TRAINING_ROWS)
    learner = Learner(world.store, world.policy, world.table)
    learner.absorb()
    learner.publish(now_us=world.now_us)
    return world


def watch(world: World, **changed: Any) -> Watch:
    config = gate_config(world.task).model_copy(
        update={"min_rows": 1_000, "max_rows": 4_000, "min_ess": 100.0, "veto_ess": 50.0, **changed}
    )
    return Watch(
        world.store, task=world.task, config=config, observations=world.table, reports=world.root / "reports", clock=lambda: world.now_us
    )


def looked(watching: Watch) -> Verdict:
    verdict = watching.look()
    assert verdict is not None
    return verdict


def test_a_better_challenger_waits_for_rows_is_promoted_and_quoted(world: World) -> None:
    watching, before = watch(world), world.store.champion()
    assert before is not None
    world.live(500)
    assert looked(watching).decision == "wait" and world.store.challengers()
    world.live(1_500)
    verdict = looked(watching)
    assert verdict.decision == "promote" and verdict.rows == 2_000
    assert verdict.estimates["rips"].difference.value > 0.4
    verdict_id = watching.conclude(verdict)
    champion = world.store.champion()
    assert champion is not None and champion.digest == verdict.contest.challenger != before.digest
    assert champion.verdict == verdict_id and world.store.challengers() == []
    kept = [path.name for path in sorted((world.root / "reports").iterdir())]
    assert kept == [f"{verdict_id}.html", f"{verdict_id}.json"]
    assert watching.look() is None


def test_a_table_without_a_row_after_training_is_waited_for(world: World) -> None:
    watching = watch(world)
    for _ in range(2):
        verdict = looked(watching)
        assert verdict.decision == "wait" and verdict.rows == 0
    at_the_end = watching.look(complete=True)
    assert at_the_end is not None and at_the_end.decision == "hold" and "Only 0 rows" in at_the_end.reasons[0]


def test_a_correction_that_comes_later_replaces_its_row(world: World) -> None:
    watching = watch(world)
    table = world.live(1_200)
    before = looked(watching).estimates["rips"].challenger
    corrected = {
        name: table[name].to_pylist() for name in ("decision_id", "decision_time_us", "slot_action", "slot_numerator", "context", "unit_id")
    }
    world.live(
        1_200, **corrected, reward=[0.0] * 1_200, slot_reward=[[0.0] * 3] * 1_200, status=["corrected"] * 1_200, revision=[2] * 1_200
    )
    after = looked(watching).estimates["rips"].challenger
    assert before.value > 0.5 and after.value == 0.0 and before.n == after.n == 1_200


def test_looking_again_gives_the_verdict_of_looking_once(world: World) -> None:
    patient = watch(world, min_rows=5_000, max_rows=9_000)
    for _ in range(4):
        world.live(600)
        looked(patient)
    assert to_mapping(looked(patient)) == to_mapping(looked(watch(world, min_rows=5_000, max_rows=9_000)))


def test_rows_of_training_and_rows_with_open_windows_are_not_looked_at(world: World) -> None:
    watching = watch(world)
    world.live(700)
    world.live(300, settled=False)
    world.live(400)
    verdict = looked(watching)
    assert verdict.rows == 700 and verdict.first_us > verdict.contest.training_watermark_us


def test_rows_are_judged_from_the_declared_age_on(world: World) -> None:
    times = world.live(700)["decision_time_us"].to_pylist()
    age_s = (closed_until_us(world.table, world.task) - times[499]) / 1e6
    verdict = looked(watch(world, min_age_s=age_s))
    assert verdict.rows == 500 and verdict.last_us == times[499]


def landed(world: World, ids: list[bytes], *, times_us: list[int], task: str = "digits", kind: str = "decision") -> None:
    """Decisions, or what cannot be read of the decision log, in the table of landed events beside the observations."""
    n = len(ids)
    columns = {"decision_id": pa.array(ids, pa.binary()), "event_time_us": times_us, "append_time_us": times_us}
    named = {"kind": kind, "topic": "decisions", "task": task}
    rows = pa.table(columns | {name: pa.array([value] * n, pa.string()) for name, value in named.items()})
    deltalake.write_deltalake(world.table.parent / "events", rows, mode="append")


def test_decisions_that_landed_and_have_no_row_are_lost_and_a_veto(world: World) -> None:
    before = world.now_us
    table = world.live(2_000)
    ids, times = table["decision_id"].to_pylist(), table["decision_time_us"].to_pylist()
    unaccounted = looked(watch(world))
    assert unaccounted.decision == "promote" and unaccounted.reasons[-1].startswith("Not known: how many decisions were lost")
    # Each landed twice; some are of another task, some before the contest, some still open: none of these is lost.
    landed(world, ids + ids, times_us=times + times)
    landed(world, [b"other"] * 500, times_us=times[:500], task="other")
    landed(world, [f"early{k}".encode() for k in range(500)], times_us=[before - 5_000_000] * 500)
    landed(world, [f"open{k}".encode() for k in range(500)], times_us=[times[-1] + 3_600_000_000] * 500)
    sound = looked(watch(world))
    assert (sound.decision, sound.inputs["logged"], sound.inputs["lost"], len(sound.reasons)) == ("promote", 2_000, 0, 1)
    landed(world, [f"lost{k}".encode() for k in range(100)], times_us=times[:100])
    landed(world, [b""] * 50, times_us=times[:50], kind="undecodable", task="")
    verdict = looked(watch(world))
    assert verdict.decision == "veto" and "150 of 2150 logged without a row" in verdict.reasons[0] and verdict.estimates == {}


def test_overridden_and_unlogged_and_fallback_rows_are_out_and_counted(world: World) -> None:
    n = 400
    world.live(n, overridden=[True] + [False] * (n - 1), logged=[True, False] + [True] * (n - 2), fallback=[0, 0, 1] + [0] * (n - 3))
    verdict = looked(watch(world))
    assert verdict.rows == n - 3 and verdict.excluded == {"overridden": 1, "unlogged": 1, "fallback": 1}


def test_wrongly_logged_propensities_are_vetoed(world: World) -> None:
    n = 3_000
    # The known-bad case of a Thompson draw logged with probability 1.
    world.live(n, slot_numerator=[[2**31 - 1] * 3] * n)
    verdict = looked(watch(world))
    assert verdict.decision == "veto" and "mean weight" in verdict.reasons[0] and verdict.estimates == {}


def test_a_challenger_that_does_what_the_log_does_not_is_held_for_lack_of_effective_rows(world: World) -> None:
    world.live(4_000)
    verdict = looked(watch(world, min_ess=1_000.0))
    assert verdict.decision == "hold" and "effective rows" in verdict.reasons[0]
    assert watch(world).conclude(verdict) is not None
    assert world.store.challengers() == [] and world.store.challengers(closed=True)[0].verdict == world.store.verdict_ids()[-1]


def test_without_challenger_or_table_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    world = begin(tmp_path)
    assert watch(world).look() is None
    digest = world.store.champion().digest
    assert not world.table.exists() and watch(world).look() is None and digest


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["params.safetensors", "manifest.json"])
def test_a_damaged_challenger_is_vetoed_and_the_gate_lives_on(world: World, file: str) -> None:
    challenger = world.store.challengers()[0]
    flipped(world.store.snapshot_dir(challenger.digest) / file)
    watching = watch(world)
    verdict = looked(watching)
    assert verdict.decision == "veto" and "cannot be judged" in verdict.reasons[0]
    watching.conclude(verdict)
    assert world.store.challengers() == [] and watching.look() is None


def test_a_damaged_champion_is_an_error_and_no_verdict(world: World) -> None:
    champion = world.store.champion()
    assert champion is not None
    flipped(world.store.snapshot_dir(champion.digest) / "params.safetensors")
    with pytest.raises(SnapshotError):
        watch(world).look()


def promoted(world: World) -> Verdict:
    world.live(2_000)
    verdict = looked(watch(world))
    assert verdict.decision == "promote"
    return verdict


def test_a_verdict_against_a_champion_that_moved_promotes_nothing(world: World) -> None:
    watching, verdict = watch(world), promoted(world)
    promote(world.store, to_mapping(verdict), now_us=world.now_us, actor="test")
    world.store.rollback(reason="test", now_us=world.now_us, actor="test")
    standing = world.store.champion()
    assert watching.conclude(verdict) is None
    assert world.store.champion() == standing and len(world.store.challengers()) == 1
    with pytest.raises(VerdictError, match="judge the challenger again"):
        promote(world.store, to_mapping(verdict), now_us=world.now_us, actor="test")


def test_a_challenger_that_was_promoted_but_not_closed_is_closed(world: World) -> None:
    verdict = promoted(world)
    promote(world.store, to_mapping(verdict), now_us=world.now_us, actor="test")
    assert watch(world).look() is None and world.store.challengers() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {**m, "decision": "hold"}, "only a verdict `promote` promotes"),
        (lambda m: {**m, "decided_us": 0}, "older than its champion"),
        (lambda m: {**m, "champion": "0" * 64}, "judge the challenger again"),
        (lambda m: {"decision": "promote"}, "not a verdict"),
    ],
)
def test_a_verdict_that_does_not_allow_it_is_refused(
    world: World, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    mapping = to_mapping(promoted(world))
    with pytest.raises(VerdictError, match=message):
        promote(world.store, change(mapping), now_us=world.now_us, actor="test")


def test_the_commands_judge_promote_and_roll_back(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), *capsys.readouterr())

    world.live(2_000)
    where = ["--task-config", str(TASK_FILE), "--store", str(world.root), "--observations", str(world.table)]
    sets = [part for key in ("min_ess=100", "veto_ess=50", "max_stale_s=null") for part in ("--set", f"gate.{key}")]
    stale = command("gate", *where, *sets[:4], "--json")
    assert stale.returncode == 2 and "a source is silent" in json.loads(stale.stdout)["reasons"][0], stale.stderr
    changed = command("gate", *where, *sets, "--json")
    assert changed.returncode == 3 and "gate.max_stale_s: None now, but 3600.0 was declared" in changed.stderr
    (world.root / "digits" / "looks" / f"{world.store.challengers()[0].digest}.json").unlink()
    said = command("gate", *where, *sets, "--reports", str(tmp_path / "out"))
    assert said.returncode == 0 and said.stdout.startswith("promote: change"), said.stderr
    kept = next((tmp_path / "out").glob("*.json"))
    moved = command("promote", str(kept), "--task", "digits", "--store", str(world.root), "--json")
    assert moved.returncode == 0 and json.loads(moved.stdout)["generation"] == 2, moved.stderr
    again = command("promote", str(kept), "--task", "digits", "--store", str(world.root))
    assert again.returncode == 2 and "judge the challenger again" in again.stderr and "Traceback" not in again.stderr
    back = command("rollback", "--task", "digits", "--store", str(world.root), "--reason", "drill", "--json")
    assert back.returncode == 0 and json.loads(back.stdout)["generation"] == 3 and Store(world.root, "digits").champion().generation == 3
    page = command("report", str(kept), "--out", str(tmp_path / "page.html"), "--json")
    assert (
        page.returncode == 0
        and json.loads(page.stdout) == {"report": str(tmp_path / "page.html")}
        and (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    )
    listed = command("verdicts", "--task", "digits", "--store", str(world.root), "--json")
    assert [verdict["decision"] for verdict in json.loads(listed.stdout)] == ["promote"]
    on_log = ["--format", "observations", "--log", str(world.table), "--store", str(world.root), "--task-config", str(TASK_FILE)]
    evaluated = json.loads(command("evaluate", *on_log, "--json").stdout)
    assert set(evaluated["estimates"]) == {"rips", "sips"}
    # The champion is back to the uniform policy, which logged these rows: its estimate is the mean of the log.
    on_policy = evaluated["on_policy"]["on-policy, this log"]["value"]
    assert evaluated["estimates"]["rips"]["value"] == pytest.approx(on_policy, rel=1e-12)
    folder = str(world.store.snapshot_dir(Store(world.root, "digits").champion().digest))
    seen = json.loads(command("evaluate", *on_log, "--snapshot", folder, "--per", "impression", "--json").stdout)
    # Weights of 1: rewards over seen slots, of which the world shows 1, 0.7 and 0.4 of each slate.
    ratio = seen["estimates"]["rips"]["value"]
    assert seen["on_policy"]["on-policy, this log"]["value"] == pytest.approx(ratio, rel=1e-12)
    assert on_policy / ratio == pytest.approx(2.1, rel=0.05) and seen["estimates"]["rips"]["denominator"] == "impression"


def test_watching_promotes_and_stops_cleanly_on_sigterm(world: World) -> None:
    world.live(2_000)
    flags = [
        "--task-config",
        str(TASK_FILE),
        "--store",
        str(world.root),
        "--observations",
        str(world.table),
        "--watch",
        "--poll-s",
        "0.05",
        "--json",
    ]
    sets = [part for key in ("min_ess=100", "veto_ess=50", "max_stale_s=null") for part in ("--set", f"gate.{key}")]
    with subprocess.Popen(
        [sys.executable, "-m", "ope", "gate", *flags, *sets], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as gate:
        assert gate.stdout is not None and gate.stderr is not None
        told = json.loads(gate.stdout.readline())
        assert (told["decision"], told["kind"]) == ("promote", "change")
        gate.send_signal(signal.SIGTERM)
        assert gate.wait(timeout=60) == 0, gate.stderr.read()
    assert world.store.challengers() == [] and len(list((world.root / "digits" / "reports").glob("*.html"))) == 1
