"""The memory of answered requests."""

import pytest

from serving.errors import RequestIdReused
from serving.idempotency import RequestMemory
from serving.request_ids import RequestIds

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
