"""Any snapshot on any log in columns: the policy is asked for its own propensity of what was logged."""

import json
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import polars as pl
import pytest

from bandits.catalog import PolicySpec, build
from bandits.policy import Batch, Dims
from bandits.programs import update_program
from bandits.requests import Requests
from bandits.snapshots import Draft
from bandits.store import Store
from tests.ope.test_ope_commands import run

ACTIONS = ("a", "b", "c", "d")
N, SLOTS, D = 250, 2, 3


def published(root: Path, name: str, **given: Any) -> tuple[Store, str]:
    """A snapshot over ACTIONS that learned from random rows."""
    rng = np.random.default_rng(1)
    dims = Dims(actions=len(ACTIONS), context=D, features=0)
    spec = PolicySpec.of(name, given.pop("settings", {}), floor=0.0, dims=dims, **given)
    policy = build(spec)
    state = update_program(spec)(policy.init(), Batch.of(rng.normal(size=(64, D)), rng.integers(0, len(ACTIONS), 64), rng.normal(size=64)))
    about = {"tenant": "t", "task": "small", "schema_digest": "s", "config_digest": "c", "kind": "change", "created_us": 1}
    store = Store(root, "small")
    return store, store.publish(Draft(spec=spec, state=state, manifest={**about, "actions": ACTIONS}))


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A policy that always takes the action of the largest mean."""
    return published(tmp_path_factory.mktemp("greedy"), "epsilon_greedy", settings={"epsilon": 0.0})


@pytest.fixture(scope="module")
def slates() -> pl.DataFrame:
    """Slates of two distinct actions of three or four candidates, drawn evenly: c stands in half of the lists."""
    rng = np.random.default_rng(2)
    lists = [list(ACTIONS) if rng.random() < 0.5 else ["d", "b", "a"] for _ in range(N)]
    rows = {
        "x": rng.normal(size=(N, D)).tolist(),
        "list": lists,
        "shown": [rng.permutation(one)[:SLOTS].tolist() for one in lists],
        "p": [[1 / len(one), 1 / (len(one) - 1)] for one in lists],
        "r": rng.random((N, SLOTS)).tolist(),
        "member": rng.integers(0, 60, N),
        "day": [f"id{row}" for row in range(N)],
    }
    return pl.DataFrame(rows).with_columns(*(pl.col("x").list.get(k).alias(f"x{k}") for k in range(D)))


MAPPED = ["--action", "shown", "--reward", "r", "--propensity", "p", "--candidates", "list", "--unit", "member", "--decision-id", "day"]


def evaluated(capsys: pytest.CaptureFixture[str], log: Path, *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, "evaluate", "--log", str(log), *arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)["estimates"]
    return found


def test_parquet_and_delta_get_the_weights_that_the_policy_itself_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slates: pl.DataFrame, greedy: tuple[Store, str]
) -> None:
    store, digest = greedy
    slates.write_parquet(tmp_path / "log.parquet", row_group_size=100)
    deltalake.write_deltalake(tmp_path / "table", slates.to_arrow())
    folder = str(store.snapshot_dir(digest))
    found = evaluated(capsys, tmp_path / "log.parquet", "--snapshot", folder, *MAPPED, "--context", "x")
    lists = slates["list"].to_list()
    padded = np.array([[ACTIONS.index(one) for one in row] + [4] * (4 - len(row)) for row in lists], np.int32)
    eligible = np.arange(4) < np.array([len(row) for row in lists])[:, None]
    logged = np.array([[row.index(one) for one in shown] for row, shown in zip(lists, slates["shown"].to_list(), strict=True)], np.int32)
    requests = Requests.of(np.array(slates["x"].to_list()), padded, eligible=eligible, slots=SLOTS)
    target = store.load(digest).slate_numerators(requests, logged) / 2.0**31
    weight = np.cumprod(target / np.array(slates["p"].to_list()), axis=1)
    reward = np.array(slates["r"].to_list())
    assert found["rips"]["value"] == pytest.approx((weight * reward).sum(axis=1).mean(), rel=1e-12)
    assert found["sips"]["value"] == pytest.approx((weight[:, -1] * reward.sum(axis=1)).mean(), rel=1e-12)
    assert found["rips"]["n_units"] == slates["member"].n_unique()
    numbered = [part for k in range(D) for part in ("--context", f"x{k}")]
    again = evaluated(capsys, tmp_path / "table", "--format", "delta", "--snapshot", folder, *MAPPED, *numbered)
    for name, estimate in found.items():
        assert [again[name][part] for part in ("value", "standard_error")] == pytest.approx([estimate["value"], estimate["standard_error"]])


def test_deterministic_policies_and_masks_are_asked_as_they_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slates: pl.DataFrame, greedy: tuple[Store, str]
) -> None:
    """Single actions, every action of the snapshot a candidate: greedy gives weights of 0 and 1 / p, and what is masked weighs 0.

    To 1e-8: whatever may be shown has a numerator of at least 1 out of 2^31.
    """
    rng = np.random.default_rng(3)
    action, masked = rng.integers(0, 4, N), rng.random((N, 4)) < 0.3
    masked[np.arange(N), action] = False
    frame = slates.with_columns(
        a=pl.Series([ACTIONS[k] for k in action]), q=pl.lit(0.25), reward=pl.Series(rng.random(N)), ok=pl.Series((~masked).tolist())
    )
    frame.write_parquet(tmp_path / "log.parquet")
    columns = ["--action", "a", "--propensity", "q", "--context", "x"]
    reward = frame["reward"].to_numpy()
    store, digest = greedy
    found = evaluated(capsys, tmp_path / "log.parquet", "--snapshot", str(store.snapshot_dir(digest)), *columns)["ips"]
    best = store.load(digest).decide(Requests.of(np.array(slates["x"].to_list()), np.arange(4)), slots=1).slates[:, 0]
    assert found["value"] == pytest.approx((4.0 * (best == action) * reward).mean(), rel=1e-8)
    assert found["largest_weight"] == pytest.approx(4.0, rel=1e-8)
    # The same with every row's candidates spelt out, which takes another way through.
    frame.with_columns(every=pl.lit(list(ACTIONS))).write_parquet(tmp_path / "spelt.parquet")
    spelt = evaluated(capsys, tmp_path / "spelt.parquet", "--snapshot", str(store.snapshot_dir(digest)), *columns, "--candidates", "every")
    assert spelt["ips"]["value"] == pytest.approx(found["value"], rel=1e-12)
    store, uniform = published(tmp_path, "uniform", wrappers=[{"name": "mask", "never": [3]}])
    found = evaluated(capsys, tmp_path / "log.parquet", "--snapshot", str(store.snapshot_dir(uniform)), *columns, "--eligible", "ok")["ips"]
    allowed = ~masked & (np.arange(4) < 3)
    even = np.where(action < 3, 4.0 / np.maximum(allowed.sum(axis=1), 1), 0.0)
    assert found["value"] == pytest.approx((even * reward).mean(), rel=1e-8)


def test_what_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], slates: pl.DataFrame) -> None:
    store, digest = published(tmp_path, "uniform")
    slates.with_columns(short=pl.col("p").list.head(1), other=pl.lit(["c", "a"])).write_parquet(tmp_path / "log.parquet")
    folder = ["--snapshot", str(store.snapshot_dir(digest))]

    def refused(*arguments: str) -> str:
        code, out, err = run(capsys, "evaluate", "--log", str(tmp_path / "log.parquet"), *arguments)
        assert code == 2 and not out and err.count("\n") == 1
        return err

    context = ["--context", "x"]
    assert "--snapshot nowhere: is no folder; give the folder of a snapshot, or its digest" in refused("--snapshot", "nowhere", *MAPPED)
    assert "--action: not given; --snapshot on columns needs" in refused(*folder, "--reward", "r", "--propensity", "p")
    assert "--weight p: given beside --snapshot, which makes the weights" in refused(*folder, *MAPPED, "--weight", "p")
    assert "--context: no column 'y'; did you mean" in refused(*folder, *MAPPED, "--context", "y")
    assert "a logged vector has 2 numbers, the schema 3" in refused(*folder, *MAPPED, "--context", "x0", "--context", "x1")
    alone = ["--action", "member", "--reward", "r", "--propensity", "p", *folder]
    assert "in row 0 is not among the row's candidates" in refused(*alone, *context)
    assert "column 'x0, x1': a logged vector has 2 numbers, the schema 3" in refused(*alone, "--context", "x0", "--context", "x1")
    assert "is not among the row's candidates" in refused(*folder, *MAPPED, *context, "--action", "other")
    assert "column 'short': its lists are not as long as the slates" in refused(*folder, *MAPPED, *context, "--propensity", "short")
    assert "column 'member': is int64; it must hold lists" in refused(*folder, *MAPPED, *context, "--eligible", "member")
