"""Compiled programs: the same answer at every batch size and padding, and nothing compiled twice."""

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from bandits.catalog import PolicySpec, build
from bandits.packed import RowLayout, pack
from bandits.policy import Batch, Dims
from bandits.programs import (
    BATCH_BUCKETS,
    candidate_bucket,
    compilations,
    run_decide,
    run_decide_rows,
    run_numerators,
    run_prepare,
    update_program,
)
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests
from tests.bandits.catalog_cases import by_kind

DIMS = Dims(actions=6, context=4, features=0)


def spec(name: str) -> PolicySpec:
    return PolicySpec.of(name, {}, floor=0.05, dims=DIMS)


@functools.cache
def params(name: str, *, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    batch = Batch.of(rng.normal(size=(90, 4)), rng.integers(0, 6, 90), rng.normal(size=90))
    policy = build(spec(name))
    return run_prepare(spec(name), update_program(spec(name))(policy.init(), batch))


def requests(n: int, width: int = 6) -> Requests:
    rng = np.random.default_rng(n)
    return Requests.of(
        rng.normal(size=(n, 4)),
        np.arange(width) % 7,
        eligible=rng.random((n, width)) < 0.9,
        slots=2,
        draw_key=rng.integers(0, 1 << 32, (n, 2), dtype=np.uint32),
    )


def rows_of(every: Requests, rows: slice) -> Requests:
    return Requests(*(column[rows] for column in every))


def wider(every: Requests, extra: int) -> Requests:
    """The same requests with candidates that are not eligible behind them."""
    pad = ((0, 0), (0, extra))
    return every._replace(
        actions=np.pad(every.actions, pad),
        features=np.pad(every.features, (*pad, (0, 0))),
        scores=np.pad(every.scores, pad),
        eligible=np.pad(every.eligible, pad),
    )


@pytest.mark.parametrize("name", by_kind())
def test_every_batch_size_gives_the_same_numerators(name: str) -> None:
    every = requests(512)
    whole = run_decide(spec(name), params(name), every, slots=2)
    assert set(whole.bucket_batch.tolist()) == {256} and whole.bucket_candidates == 8
    for rows in (slice(0, 1), slice(3, 8), slice(10, 60), slice(0, 200)):
        part = run_decide(spec(name), params(name), rows_of(every, rows), slots=2)
        np.testing.assert_array_equal(part.slates, whole.slates[rows])
        np.testing.assert_allclose(part.numerators / DENOMINATOR, whole.numerators[rows] / DENOMINATOR, rtol=0, atol=3e-7)


@pytest.mark.parametrize(
    ("rows", "buckets"),
    [(1, [1]), (2, [8]), (9, [8, 1]), (16, [8, 8]), (17, [32]), (40, [32, 8]), (65, [64, 1]), (100, [64, 32, 8]), (300, [256, 64])],
)
def test_a_batch_is_cut_into_the_calls_that_cost_least(rows: int, buckets: list[int]) -> None:
    found = run_decide(spec("uniform"), params("uniform"), requests(rows), slots=2).bucket_batch.tolist()
    filled = [min(bucket, rows - sum(buckets[:place])) for place, bucket in enumerate(buckets)]
    assert found == [bucket for bucket, count in zip(buckets, filled, strict=True) for _ in range(count)]


def test_large_rows_give_the_same_answers_wherever_they_lie() -> None:
    every = requests(256, width=120)
    layout = RowLayout(4, candidate_bucket(120), 0)
    rows = pack(every, layout)
    memory = np.zeros(rows.nbytes + 128, np.uint8)
    wanted = run_decide(spec("linear_thompson"), params("linear_thompson"), every, slots=2)
    for odd in (0, 4, 16):
        start = -memory.ctypes.data % 64 + odd
        moved = memory[start : start + rows.nbytes].view(np.uint32).reshape(rows.shape)
        moved[:] = rows
        found = run_decide_rows(spec("linear_thompson"), params("linear_thompson"), moved, layout=layout, slots=2)
        np.testing.assert_array_equal(found.slates, wanted.slates)
        np.testing.assert_array_equal(found.numerators, wanted.numerators)


@pytest.mark.parametrize("name", by_kind())
def test_padding_of_the_candidates_gives_the_same_numerators(name: str) -> None:
    every = requests(40)
    plain = run_decide(spec(name), params(name), every, slots=2)
    for extra in (1, 5, 70):
        padded = run_decide(spec(name), params(name), wider(every, extra), slots=2)
        np.testing.assert_array_equal(padded.slates, plain.slates)
        np.testing.assert_allclose(padded.numerators / DENOMINATOR, plain.numerators / DENOMINATOR, rtol=0, atol=3e-7)


def test_more_slots_than_wanted_leave_the_first_as_they_are() -> None:
    every = requests(20)
    two, four = (run_decide(spec("linear_thompson"), params("linear_thompson"), every, slots=slots) for slots in (2, 4))
    np.testing.assert_array_equal(four.slates, np.pad(two.slates, ((0, 0), (0, 2)), constant_values=-1))


@pytest.mark.parametrize("name", by_kind())
def test_no_request_is_an_answer_without_rows(name: str) -> None:
    none = rows_of(requests(1), slice(0, 0))
    for outputs in (
        run_decide(spec(name), params(name), none, slots=3),
        run_numerators(spec(name), params(name), none, np.zeros((0, 3), np.int32)),
    ):
        assert outputs.slates.shape == outputs.numerators.shape == outputs.mean.shape == (0, 3)
        assert (outputs.slates.dtype, outputs.numerators.dtype) == (np.int32, np.uint32)


@pytest.mark.parametrize("name", by_kind())
def test_warm_programs_compile_nothing_and_snapshots_of_one_shape_share_them(name: str) -> None:
    for size in BATCH_BUCKETS:
        run_decide(spec(name), params(name), requests(size), slots=2)
    other = params(name, seed=1)
    before = compilations()
    for size in (1, 2, 7, 63, 64, 65, 255, 300):
        run_decide(spec(name), params(name), requests(size), slots=2)
        run_decide(spec(name), other, requests(size, width=3), slots=2)
    assert compilations() == before


def test_the_counter_of_compilations_counts() -> None:
    before = compilations()
    run_decide(spec("uniform"), params("uniform"), requests(1), slots=5)
    assert compilations() > before


@pytest.mark.parametrize(
    ("candidates", "bucket"), [(0, 8), (1, 8), (8, 8), (9, 12), (17, 20), (25, 28), (33, 40), (64, 64), (65, 80), (1000, 1024)]
)
def test_candidate_buckets_are_four_to_a_power_of_two(candidates: int, bucket: int) -> None:
    assert candidate_bucket(candidates) == bucket


def test_a_nan_context_still_gives_numerators_that_add_up() -> None:
    """No caller sends one; if one slips through, the draw is uniform and logged so, never garbage."""
    every = requests(8)
    broken = every.context.copy()
    broken[2] = np.nan
    nan = Requests(broken, *every[1:])
    outputs = run_decide(spec("linear_thompson"), params("linear_thompson"), nan, slots=1)
    assert outputs.numerators[2, 0] in {DENOMINATOR // every.eligible[2].sum(), DENOMINATOR // every.eligible[2].sum() + 1}


# Prints into how many parts the loops of a program are cut.
PARTS = """
import re, numpy as np
from bandits.catalog import PolicySpec, build
from bandits.packed import RowLayout
from bandits.policy import Dims
from bandits.programs import _decide_program, run_prepare
spec = PolicySpec.of("linear_thompson", {}, floor=0.05, dims=Dims(actions=20, context=32, features=0))
layout = RowLayout(32, 20, 0)
program = _decide_program(spec, layout, 3).lower(run_prepare(spec, build(spec).init()), np.zeros((256, layout.words), np.uint32))
print(max(map(int, re.findall(r'outer_dimension_partitions":\\["(\\d+)', program.compile().as_text())), default=1))
"""


@pytest.mark.parametrize(("told", "parts"), [({}, 1), ({"PJRT_NPROC": "4"}, 4)])
def test_a_batch_is_not_cut_into_a_part_a_core(told: dict[str, str], parts: int) -> None:
    here = {name: value for name, value in os.environ.items() if name not in ("PJRT_NPROC", "XLA_FLAGS")}
    said = subprocess.run([sys.executable, "-c", PARTS], env={**here, **told}, capture_output=True, text=True, check=True)
    assert int(said.stdout) == parts, "XLA's threads would be waited for at every loop"
