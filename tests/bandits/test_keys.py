"""The generator against its published vectors and a second implementation; ids that no two field lists share."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.extend
import numpy as np
import pytest
import scipy.stats

from bandits.keys import DECISION_ID_BYTES, decision_id, draw_key, slot_draws, sticky_key, threefry2x32

# kat_vectors of the Random123 distribution (D. E. Shaw Research), threefry2x32 with 20 rounds: counter, key -> two words.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
ID_FIELDS = ("tenant", "task", "request_id", "arm", "snapshot_digest")


def words(values: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([values[0]], np.uint32), np.array([values[1]], np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_generator_gives_the_published_words(counter: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]) -> None:
    assert tuple(int(word[0]) for word in threefry2x32(words(key), words(counter))) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_a_second_implementation_gives_them_too(counter: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]) -> None:
    found = jax.extend.random.threefry_2x32(np.array(key, np.uint32), np.array(counter, np.uint32))
    assert tuple(np.asarray(found).tolist()) == expected


def test_numpy_and_jax_draw_the_same_bits() -> None:
    compiled = jax.jit(slot_draws, static_argnums=1)
    for seed in range(50):
        key = np.random.default_rng(seed).integers(0, 1 << 32, 2, dtype=np.uint32)
        np.testing.assert_array_equal(np.asarray(compiled(key, 64)), slot_draws(key, 64))


def test_the_draws_of_a_slate_do_not_depend_on_how_many_slots_are_drawn() -> None:
    key = np.array([7, 9], np.uint32)
    np.testing.assert_array_equal(slot_draws(key, 3), slot_draws(key, 64)[:3])


def test_draws_are_uniform_and_slots_independent() -> None:
    """Chi-square of 40,000 pairs of draws in 16 x 16 cells; false alarm 1e-6. It would see cells that are off by 8 % each."""
    keys = np.stack([draw_key(decision_id(**{**dict.fromkeys(ID_FIELDS, "x"), "request_id": str(n)})) for n in range(40_000)])
    cells = np.asarray(jax.jit(jax.vmap(lambda key: slot_draws(key, 2)))(keys)) >> np.uint32(27)
    counts = np.bincount(cells[:, 0].astype(np.int64) * 16 + cells[:, 1], minlength=256)
    assert scipy.stats.chisquare(counts).pvalue > 1e-6


@hypothesis.settings(deadline=None, max_examples=300, derandomize=True)
@hypothesis.given(st.lists(st.text(max_size=5), min_size=5, max_size=5), st.lists(st.text(max_size=5), min_size=5, max_size=5))
def test_no_two_field_lists_share_an_id(one: list[str], other: list[str]) -> None:
    ids = [decision_id(**dict(zip(ID_FIELDS, fields, strict=True))) for fields in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)
    assert len(ids[0]) == DECISION_ID_BYTES == 16


def test_moving_a_letter_between_fields_makes_another_id() -> None:
    fields = dict.fromkeys(ID_FIELDS, "ab")
    ids = {decision_id(**{**fields, left: "a", right: "bab"}) for left, right in zip(ID_FIELDS, ID_FIELDS[1:] + ID_FIELDS[:1], strict=True)}
    assert len(ids) == len(ID_FIELDS) and decision_id(**fields) not in ids


def test_a_sticky_key_is_one_a_unit_and_epoch() -> None:
    key = sticky_key(task="t", unit_id="u", epoch=0)
    assert key.dtype == np.uint32 and key.shape == (2,)
    np.testing.assert_array_equal(key, sticky_key(task="t", unit_id="u", epoch=0))
    others = [
        sticky_key(task="t", unit_id="u", epoch=1),
        sticky_key(task="t", unit_id="v", epoch=0),
        sticky_key(task="tu", unit_id="", epoch=0),
    ]
    assert not any(np.array_equal(key, other) for other in others)


def test_the_key_is_the_first_eight_bytes_of_the_id_little_endian() -> None:
    np.testing.assert_array_equal(draw_key(bytes(range(16))), [0x03020100, 0x07060504])
