"""Compares our estimators with recorded answers, over any folder of that format.

    python tests/ope/parity.py FOLDER

A case is `NAME.json` (its `estimates`) with `NAME.parquet` or `NAME_rows.parquet` beside it: columns as in tests/ope/data/README.md,
or with whole vectors `action_dist` and `q_hat` a row. Prints case, estimator, ours, theirs, relative difference.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ope.estimators import estimator
from ope.rows import Batch, prefix_weights, single_actions

# Our name -> theirs; the Open Bandit figures use the longer names.
THEIRS = {
    "ips": ("ips", "ipw", "naive_ips"),
    "snips": ("snips", "snipw"),
    "dm": ("dm",),
    "dr": ("dr", "naive_dr"),
    "sips": ("sips",),
    "rips": ("rips",),
}


class Line(NamedTuple):
    """One comparison."""

    case: str
    name: str
    ours: float
    theirs: float

    @property
    def relative(self) -> float:
        """|ours - theirs| / |theirs|."""
        return abs(self.ours - self.theirs) / max(abs(self.theirs), 1e-300)


def lines(folder: Path) -> Iterator[Line]:
    """The comparisons of every case of a folder that our catalog has an estimator for."""
    for path in sorted(folder.glob("*.json")):
        recorded, rows = json.loads(path.read_text()), _rows(path)
        if rows is None or "estimates" not in recorded:
            continue
        batch = _slates(rows) if "slate_id" in rows.column_names else _single(rows)
        for name, theirs in _shared(recorded["estimates"]):
            entry = estimator(name)
            if all(getattr(batch, array) is not None for array in entry.needs):
                yield Line(path.stem, name, entry.finish(entry.moments(batch), 0.05).value, theirs)


def _rows(path: Path) -> pa.Table | None:
    for candidate in (path.with_suffix(".parquet"), path.with_name(f"{path.stem}_rows.parquet")):
        if candidate.exists() and {"pscore", "reward"} <= set(pq.read_schema(candidate).names):
            return pq.read_table(candidate)
    return None


def _shared(recorded: dict[str, float]) -> Iterator[tuple[str, float]]:
    for name, aliases in THEIRS.items():
        yield from ((name, recorded[alias]) for alias in aliases if alias in recorded)


def _single(rows: pa.Table) -> Batch:
    logged = rows["pscore"].to_numpy()
    if "action_dist" not in rows.column_names:
        q, v = rows["q_hat_logged"].to_numpy(), rows["v_hat"].to_numpy()
        return single_actions(reward=rows["reward"].to_numpy(), weight=rows["pi_e"].to_numpy() / logged, q_logged=q, v_target=v)
    row, action = np.arange(rows.num_rows), rows["action"].to_numpy()
    target, model = _matrix(rows["action_dist"]), _matrix(rows["q_hat"]) if "q_hat" in rows.column_names else None
    return single_actions(
        reward=rows["reward"].to_numpy(),
        weight=target[row, action] / logged,
        q_logged=None if model is None else model[row, action],
        v_target=None if model is None else (target * model).sum(axis=1) / target.sum(axis=1),
    )


def _slates(rows: pa.Table) -> Batch:
    positions = int(rows["position"].to_numpy().max()) + 1
    reward, logged, target = (rows[name].to_numpy().reshape(-1, positions) for name in ("reward", "pscore_cascade", "pi_e_cascade"))
    first = np.ones((len(reward), 1))
    conditional = [prefix / np.concatenate([first, prefix[:, :-1]], axis=1) for prefix in (np.maximum(target, 0), logged)]
    return Batch(reward, prefix_weights(target=np.nan_to_num(conditional[0]), logged=conditional[1], present=np.ones(reward.shape, bool)))


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), np.float64)


def main() -> None:
    """Prints the comparison of the folder that is named."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"error: FOLDER: {sys.argv[1:]} is refused; give one folder of NAME.json with NAME.parquet")
    print(f"{'case':45} {'estimator':10} {'ours':>24} {'theirs':>24} {'relative':>10}")
    for line in lines(Path(sys.argv[1])):
        print(f"{line.case:45} {line.name:10} {line.ours:24.17g} {line.theirs:24.17g} {line.relative:10.1e}")


if __name__ == "__main__":
    main()
