"""The store: a champion that moves by compare-and-swap on evidence, and a directory that no crash leaves half-written."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bandits import durable
from bandits import store as store_module
from bandits.catalog import PolicySpec, build
from bandits.errors import ChampionMoved, StoreError, UnknownSnapshot, VerdictRefused
from bandits.policy import Dims
from bandits.snapshots import Draft
from bandits.store import Pointer, Store

SPEC = PolicySpec.of("uniform", {}, floor=0.0, dims=Dims(actions=2, context=1, features=0))


def draft(number: int, **changes: Any) -> Draft:
    about = {"tenant": "default", "task": "small", "actions": ("a", "b"), "schema_digest": "s", "config_digest": "c", "kind": "refresh"}
    return Draft(spec=SPEC, state=build(SPEC).init(), manifest={**about, "created_us": number, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, "small")


def begun(store: Store) -> Pointer:
    return store.begin(store.publish(draft(0, kind="first")), now_us=1, actor="test")


def verdict(challenger: str, champion: str, decision: str = "promote") -> dict[str, Any]:
    return {"decision": decision, "challenger": challenger, "champion": champion}


def promoted(store: Store, number: int) -> Pointer:
    standing, digest = store.champion(), store.publish(draft(number))
    assert standing is not None
    return store.promote(digest, verdict=verdict(digest, standing.digest), expected=standing, now_us=number, actor="test")


def test_publishing_the_same_again_changes_nothing(store: Store) -> None:
    digest = store.publish(draft(1))
    assert store.publish(draft(1)) == digest and store.digests() == [digest]
    assert store.load(digest).digest == digest and store.manifest(digest).created_us == 1


def test_a_task_begins_once(store: Store) -> None:
    assert store.champion() is None
    pointer = begun(store)
    assert (pointer.generation, pointer.previous, pointer.baseline) == (1, "", pointer.digest) and store.champion() == pointer
    with pytest.raises(ChampionMoved, match="has one already"):
        begun(store)


def test_a_promotion_quotes_its_verdict_and_counts(store: Store) -> None:
    first = begun(store)
    second = promoted(store, 2)
    assert second == store.champion() and second.previous == first.digest and second.generation == 2
    assert store.verdict(second.verdict) == verdict(second.digest, first.digest) and store.verdict_ids() == [second.verdict]


@pytest.mark.parametrize(
    "changes", [{"decision": "hold"}, {"decision": "veto"}, {"challenger": "0" * 64}, {"champion": "0" * 64}, {"decision": None}], ids=str
)
def test_a_verdict_on_something_else_moves_nothing(store: Store, changes: dict[str, Any]) -> None:
    first, digest = begun(store), store.publish(draft(2))
    with pytest.raises(VerdictRefused):
        store.promote(digest, verdict={**verdict(digest, first.digest), **changes}, expected=first, now_us=2, actor="test")
    assert store.champion() == first


def test_a_promotion_against_a_champion_that_moved_is_refused(store: Store) -> None:
    first = begun(store)
    second, digest = promoted(store, 2), store.publish(draft(3))
    for expected in (first, None, second._replace(generation=9)):
        with pytest.raises(ChampionMoved):
            store.promote(digest, verdict=verdict(digest, first.digest), expected=expected, now_us=3, actor="test")
    assert store.champion() == second


def test_of_many_writers_one_wins(store: Store) -> None:
    first = begun(store)
    digests = [store.publish(draft(number)) for number in range(2, 10)]

    def move(digest: str) -> bool:
        try:
            store.promote(digest, verdict=verdict(digest, first.digest), expected=first, now_us=5, actor="test")
        except ChampionMoved:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(move, digests)) == 1
    pointer = store.champion()
    assert pointer is not None and pointer.generation == 2 and pointer.digest in digests


def test_a_promotion_of_nothing_is_refused(store: Store) -> None:
    first = begun(store)
    with pytest.raises(UnknownSnapshot):
        store.promote("1" * 64, verdict=verdict("1" * 64, first.digest), expected=first, now_us=2, actor="test")
    for digest in ("", "xyz", "../" * 21 + "a", "A" * 64):
        with pytest.raises(UnknownSnapshot, match="64 lower-case hex"):
            store.snapshot_dir(digest)


def test_a_rollback_restores_the_one_before_and_names_what_it_undoes(store: Store) -> None:
    first = begun(store)
    with pytest.raises(StoreError, match="no previous"):
        store.rollback(reason="early", now_us=2, actor="test")
    second = promoted(store, 2)
    back = store.rollback(reason="clicks fell", now_us=3, actor="oncall")
    assert (back.digest, back.previous, back.verdict, back.generation) == (first.digest, second.digest, second.verdict, 3)
    assert store.audit()[-1]["reason"] == "clicks fell" and store.audit()[-1]["actor"] == "oncall"


def test_the_kill_switch_stands_until_it_is_turned_off(store: Store) -> None:
    begun(store)
    assert not store.kill_switch
    store.set_kill_switch(True, reason="fire", now_us=1, actor="oncall")
    assert store.kill_switch and Store(store.snapshot_dir("0" * 64).parents[2], "small").kill_switch
    store.set_kill_switch(False, reason="out", now_us=2, actor="oncall")
    store.set_kill_switch(False, reason="out", now_us=3, actor="oncall")
    assert not store.kill_switch
    assert [entry["action"] for entry in store.audit()][-3:] == ["kill_switch_on", "kill_switch_off", "kill_switch_off"]


def test_one_challenger_waits_at_a_time(store: Store) -> None:
    begun(store)
    one, other = (store.publish(draft(number, label=label)) for number, label in ((2, ""), (3, "drill")))
    assert store.challenge(one, now_us=2).kind == "refresh"
    with pytest.raises(StoreError, match="one at a time"):
        store.challenge(other, now_us=3)
    assert store.challenge(one, now_us=2).digest == one and [item.digest for item in store.challengers()] == [one]
    store.close_challenger(one, store.put_verdict(verdict(one, "x", "hold")))
    assert store.challengers() == [] and [item.digest for item in store.challengers(closed=True)] == [one]
    store.challenge(other, now_us=4)
    assert [item.digest for item in store.challengers()] == [other]
    with pytest.raises(UnknownSnapshot):
        store.close_challenger("2" * 64, "v")


def test_collection_keeps_what_may_be_needed(store: Store) -> None:
    first = begun(store)
    for number in range(2, 8):
        pointer = promoted(store, number)
    waiting = store.publish(draft(8))
    store.challenge(waiting, now_us=8)
    newest = [store.publish(draft(number)) for number in (9, 10)]
    removed = store.collect(keep=1)
    assert set(store.digests()) == {first.digest, pointer.digest, pointer.previous, waiting, newest[1]} and len(removed) == 5
    assert store.collect(keep=0) == [newest[1]]
    assert store.load(pointer.previous).digest == pointer.previous


def test_the_audit_log_has_every_move(store: Store) -> None:
    begun(store)
    second = promoted(store, 2)
    store.challenge(store.publish(draft(3)), now_us=3)
    store.rollback(reason="test", now_us=4, actor="test")
    assert [entry["action"] for entry in store.audit()] == ["begin", "promote", "challenge", "rollback"]
    moves = [entry for entry in store.audit() if "generation" in entry]
    assert [entry["generation"] for entry in moves] == [1, 2, 3] and moves[1]["verdict"] == second.verdict
    assert Store(store.snapshot_dir("0" * 64).parents[2], "other").audit() == []


def test_a_torn_audit_line_stands_as_such_and_hides_none(store: Store) -> None:
    begun(store)
    path = store.snapshot_dir("0" * 64).parents[1] / "audit.jsonl"
    path.write_bytes(path.read_bytes() + b'{"action": "prom')
    promoted(store, 2)
    assert [entry["action"] for entry in store.audit()] == ["begin", "unreadable", "promote"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"digest": 1}', '{"a": 1}', "\x00"])
def test_a_damaged_pointer_is_an_error_that_names_its_file(store: Store, content: str) -> None:
    begun(store)
    (store.snapshot_dir("0" * 64).parents[1] / "champion.json").write_text(content)
    with pytest.raises(StoreError, match=r"champion\.json"):
        store.champion()


@pytest.mark.parametrize("after", range(4))
def test_a_crash_while_publishing_leaves_no_snapshot(store: Store, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes after `after` of the four files."""
    begun(store)
    before, written = store.digests(), []

    def failing(path: Path, data: bytes) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        durable.write_whole(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "write_whole", failing)
        with pytest.raises(KeyboardInterrupt):
            store.publish(draft(2))
    assert store.digests() == before
    assert store.publish(draft(2)) in store.digests()


def test_a_lock_is_freed_with_its_holder(store: Store, tmp_path: Path) -> None:
    """A process that dies while it holds the lock stops nobody."""
    begun(store)
    process = multiprocessing.get_context("spawn").Process(target=die_holding_the_lock, args=(tmp_path,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 9
    store.set_kill_switch(True, reason="goes on", now_us=2, actor="test")


def die_holding_the_lock(root: Path) -> None:
    import os

    with Store(root, "small")._locked():
        os._exit(9)


@pytest.mark.parametrize("task", ["", ".", "..", "a/b", ".hidden", "a\0b", "a b", "x" * 200, "a\nb"])
def test_a_task_that_cannot_name_a_folder_is_refused(task: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="task"):
        Store(tmp_path, task)


def test_a_store_where_a_file_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(StoreError, match="file"):
        begun(Store(tmp_path / "file", "small"))


def test_a_verdict_is_kept_once_under_its_content(store: Store) -> None:
    one, again = store.put_verdict({"a": 1, "b": 2}), store.put_verdict({"b": 2, "a": 1})
    assert one == again and store.verdict_ids() == [one] and store.verdict(one) == json.loads('{"a": 1, "b": 2}')
    with pytest.raises(UnknownSnapshot):
        store.verdict("nothing")


def test_a_staged_promotion_is_audited_step_by_step_and_undone_by_one_call(store: Store) -> None:
    first, digest = begun(store), store.publish(draft(2))
    quotes = verdict(digest, first.digest)
    staged = store.promote(digest, verdict=quotes, expected=first, now_us=2, actor="gate", share=0.1)
    assert staged.digest == first.digest and staged.split is not None and staged.split.challenger == digest
    assert digest not in store.collect(keep=0)
    back = store.rollback(reason="clicks fell", evidence="e" * 64, now_us=3, actor="gate")
    assert back.digest == first.digest and back.split is None
    step, undone = store.audit()[-2:]
    assert (step["action"], step["quoted"], step["share"]) == ("stage", staged.stage_verdict, 0.1)
    assert (undone["action"], undone["quoted"], undone["evidence"]) == ("rollback", staged.stage_verdict, "e" * 64)


def test_a_pointer_written_before_there_were_stages_is_read(store: Store, tmp_path: Path) -> None:
    path, pointer = tmp_path / "small" / "champion.json", begun(store)
    old = {name: value for name, value in pointer._asdict().items() if name in Pointer._fields[:6]}
    path.write_text(json.dumps(old))
    assert store.champion() == pointer
