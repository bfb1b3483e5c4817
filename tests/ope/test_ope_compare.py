"""`ope compare`, and logs of other kinds: the same rows give the same numbers, whatever they are kept in."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from deltalake import write_deltalake

from ope.__main__ import main
from ope.commands_compare import compare as command
from ope.commands_evaluate import Format
from ope.errors import RowsError, SourceError
from ope.evaluate import compare
from ope.interval_names import INTERVALS, interval_of
from ope.rows import as_logged
from tests.ope.slow_reference import example

N = 300
RNG = np.random.default_rng(11)
COLUMNS = {
    "reward": RNG.binomial(1, 0.3, N).astype(float),
    "p": RNG.choice([0.25, 0.5], N),
    "t": RNG.choice([0.25, 0.5], N),
    "c": RNG.choice([0.25, 0.5], N),
    "q": RNG.random(N),
    "v": RNG.random(N),
    "user": [f"u{k % 60}" for k in range(N)],
}
FLAGS = ["--propensity", "p", "--target-propensity", "t", "--q-logged", "q", "--v-target", "v", "--unit", "user", "--json"]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return json.loads(out)


def written(folder: Path) -> dict[str, Path]:
    frame = pl.DataFrame(COLUMNS)
    frame.write_parquet(folder / "log.parquet")
    frame.write_csv(folder / "log.csv")
    write_deltalake(folder / "table", frame.to_arrow())
    return {"parquet": folder / "log.parquet", "csv": folder / "log.csv", "delta": folder / "table"}


def test_parquet_csv_and_delta_give_the_same_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = [answer(capsys, "evaluate", "--format", kind, "--log", str(log), *FLAGS) for kind, log in written(tmp_path).items()]
    assert found[0] == found[1] == found[2] and found[0]["estimates"]["dr"]["n_units"] == 60


@pytest.mark.parametrize("interval", sorted(INTERVALS))
def test_compare_gives_both_values_and_the_paired_difference(capsys: pytest.CaptureFixture[str], tmp_path: Path, interval: str) -> None:
    log = written(tmp_path)["parquet"]
    given = ["compare", "--log", str(log), *FLAGS, "--interval", interval, "--estimator", "snips"]
    logged = answer(capsys, *given)["comparisons"]["snips"]
    assert logged["champion"]["value"] == pytest.approx(COLUMNS["reward"].mean())
    other = answer(capsys, *given, "--champion-propensity", "c")["comparisons"]["snips"]
    assert other["difference"]["value"] == pytest.approx(other["challenger"]["value"] - other["champion"]["value"])
    assert other["difference"]["lower"] < other["difference"]["value"] < other["difference"]["upper"]


def test_dsjson_lines_are_decisions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log, chance = tmp_path / "log.dsjson", RNG.choice([0.2, 0.8], N)
    lines = [
        {
            "_label_cost": -float(r),
            "_label_probability": float(p),
            "_label_Action": 1 + k % 2,
            "a": [1 + k % 2, 2 - k % 2],
            "p": [p, 1 - p],
            "EventId": str(k),
        }
        for k, (r, p) in enumerate(zip(COLUMNS["reward"], chance, strict=True))
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = answer(capsys, "evaluate", "--format", "dsjson", "--log", str(log), "--estimator", "ips", "--json")
    assert found["estimates"]["ips"]["value"] == pytest.approx((0.5 / chance * COLUMNS["reward"]).mean(), rel=1e-12)
    both = answer(capsys, "compare", "--format", "dsjson", "--log", str(log), "--against", "baseline", "--estimator", "ips", "--json")
    first = (np.arange(N) % 2 == 0) / chance * COLUMNS["reward"]
    assert both["comparisons"]["ips"]["champion"]["value"] == pytest.approx(first.mean(), rel=1e-12)
    log.write_text(json.dumps({**lines[0], "_label_probability": 1.5}))
    with pytest.raises(SystemExit):
        main(["evaluate", "--format", "dsjson", "--log", str(log)])
    assert "line 1: _label_probability is 1.5" in capsys.readouterr().err


def test_the_logging_policy_against_itself_differs_by_nothing() -> None:
    batch = as_logged(example(seed=0, rows=50, slots=1, units=10))
    found = compare([(batch, batch)], names=["ips", "dr", "mips"])
    assert all(one.difference.value == 0.0 == one.difference.standard_error for one in found.values())
    assert found["dr"].champion.value == pytest.approx(float(batch.reward.mean()))


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(RowsError, match="none were given"):
        compare([])
    with pytest.raises(RowsError, match="interval 'wide' is unknown; known: student-t"):
        interval_of("wide")
    with pytest.raises(SourceError, match="ope gate"):
        command(Path("x"), format=Format.OBSERVATIONS)
