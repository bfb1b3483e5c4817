"""The memory of answered requests."""

import pytest

from serving.errors import RequestIdReused
from serving.idempotency import RequestMemory
from serving.request_ids import RequestIds, together

KEY = ("default", "task", "r")


def test_an_answer_is_given_again_to_the_same_body_only() -> None:
    memory = RequestMemory(entries=10)
    assert memory.claim(KEY, body=b"1") is None
    memory.keep(KEY, answer=b"answer")
    assert memory.claim(KEY, body=b"1") == b"answer"
    with pytest.raises(RequestIdReused, match="send a new id"):
        memory.claim(KEY, body=b"2")
    assert memory.claim(("other", *KEY[1:]), body=b"2") is None


def test_a_claim_without_answer_still_guards_its_id_until_it_is_released() -> None:
    memory = RequestMemory(entries=10)
    memory.claim(KEY, body=b"1")
    assert memory.claim(KEY, body=b"1") is None
    with pytest.raises(RequestIdReused):
        memory.claim(KEY, body=b"2")
    memory.release(KEY)
    assert memory.claim(KEY, body=b"2") is None


def test_a_release_takes_no_answer_back() -> None:
    memory = RequestMemory(entries=10)
    memory.claim(KEY, body=b"1")
    memory.keep(KEY, answer=b"answer")
    memory.release(KEY)
    assert memory.claim(KEY, body=b"1") == b"answer"


def test_the_least_recently_used_is_forgotten_first() -> None:
    memory = RequestMemory(entries=2)
    keys = [("t", "t", name) for name in "abc"]
    for key in keys[:2]:
        memory.claim(key, body=b"1")
        memory.keep(key, answer=b"kept")
    assert memory.claim(keys[0], body=b"1") == b"kept"
    memory.claim(keys[2], body=b"1")
    assert memory.claim(keys[0], body=b"1") == b"kept"
    assert memory.claim(keys[1], body=b"2") is None


def test_a_memory_of_none_remembers_none() -> None:
    memory = RequestMemory(entries=0)
    assert memory.claim(KEY, body=b"1") is None
    memory.keep(KEY, answer=b"answer")
    assert memory.claim(KEY, body=b"2") is None


def test_drawn_ids_are_the_bytes_that_were_drawn_each_once() -> None:
    numbers = iter(range(10**6))
    ids = RequestIds(lambda size: b"".join(next(numbers).to_bytes(16, "big") for _ in range(size // 16)))
    assert {ids() for _ in range(512)} == {f"{number:032x}" for number in range(512)} and next(numbers) == 512


def test_ids_of_a_batch_are_drawn_for_it_alone() -> None:
    numbers = iter(range(10**6))
    ids = RequestIds(lambda size: b"".join(next(numbers).to_bytes(16, "big") for _ in range(size // 16)))
    assert together(ids)(3) == [f"{number:032x}".encode() for number in range(3)] and ids() == f"{3:032x}"
    assert together(lambda: "own")(2) == [b"own", b"own"]


def test_long_answers_are_forgotten_before_they_fill_the_memory() -> None:
    memory = RequestMemory(entries=1000, answers_bytes=100)
    keys = [("default", "task", str(number)) for number in range(20)]
    for key in keys:
        memory.claim(key, body=b"1")
        memory.keep(key, answer=bytes(30))
        memory.keep(key, answer=bytes(40))
    assert [memory.claim(key, body=b"1") is not None for key in keys[-3:]] == [False, True, True]
    assert memory.claim(keys[0], body=b"2") is None, "what is forgotten is new"


def test_many_are_claimed_together_only_if_all_are_new() -> None:
    memory = RequestMemory(entries=10)
    keys = [("default", "task", str(number)) for number in range(3)]
    assert not memory.claim_all([*keys, keys[0]], bodies=[b"1"] * 4)
    memory.claim(keys[1], body=b"1")
    assert not memory.claim_all(keys, bodies=[b"1"] * 3)
    memory.release(keys[1])
    assert memory.claim_all(keys, bodies=[b"1"] * 3)
    memory.keep_all(keys, answers=[b"a", b"b", b"c"])
    assert [memory.claim(key, body=b"1") for key in keys] == [b"a", b"b", b"c"]
