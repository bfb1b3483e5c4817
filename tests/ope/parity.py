"""Compares our estimators with recorded answers, over any folder of that format.

    python tests/ope/parity.py FOLDER

A case is `NAME.json` (its `estimates`) with `NAME.parquet` or `NAME_rows.parquet` beside it: columns as in tests/ope/data/README.md,
or with whole vectors `action_dist` and `q_hat` a row, or a folder of Open Bandit logs with its `reference` inside. What is compared
follows from the names in `estimates` and the columns of the rows. Prints case, estimator, ours, theirs, relative difference; ends with
code 1 where one is apart by more than 1e-10, or where a recorded estimate has no counterpart of ours.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ope.embeddings import embedding_weights
from ope.estimators import FAMILIES, estimator
from ope.kernels import kernel_weights
from ope.likelihood import cressie_read, maximum_likelihood
from ope.pseudo_inverse import product_weights
from ope.rows import Batch, prefix_weights, single_actions
from ope.strata import stratum, weighted
from ope.tuning import tuned

LIMIT = 1e-10
# Their name -> ours, where they differ; the Open Bandit figures use the longer names.
OURS = {
    "ipw": "ips",
    "naive_ips": "ips",
    "snipw": "snips",
    "naive_dr": "dr",
    "mips_true_p_e_a": "mips",
    "pseudo_inverse_vw_slate_sum_reward": "pseudo_inverse",
}
# Their name of a family, with its number or the way it was tuned behind it.
FAMILY = {
    "ips_clip": "clipped_ips",
    "ipw_clip": "clipped_ips",
    "dr_clip": "clipped_dr",
    "switch_dr": "switch_dr",
    "switch-dr": "switch_dr",
    "dros": "dros",
    "dr-os": "dros",
    "sg_ips": "sg_ips",
    "sg-ipw": "sg_ips",
    "sg_dr": "sg_dr",
    "sg-dr": "sg_dr",
}
KERNEL = {"kips": "kernel_ips", "ksnips": "kernel_snips", "kdr": "kernel_dr"}
_TAMED = re.compile(r"(?P<family>[a-z_-]+?)[_-]?(?P<number>slope|mse|inf|\d[\d.e+-]*)")
_KERNEL = re.compile(r"(?P<name>kips|ksnips|kdr)_(?P<kernel>[a-z]+)_(?P<bandwidth>[0-9.]+)")
_LIKELIHOOD = {"mle": maximum_likelihood, "cressieread": cressie_read}


class Line(NamedTuple):
    """One comparison; `ours` is NaN where we have no such estimator."""

    case: str
    name: str
    ours: float
    theirs: float

    @property
    def relative(self) -> float:
        """|ours - theirs| / |theirs|."""
        return abs(self.ours - self.theirs) / max(abs(self.theirs), 1e-300)


class Case(NamedTuple):
    """A recorded case and its rows."""

    name: str
    recorded: Mapping[str, Any]
    rows: pa.Table


def lines(folder: Path) -> Iterator[Line]:
    """The comparisons of every case of a folder. What they recorded as null, they could not say."""
    for case in _cases(folder):
        make = _maker(case)
        for name, theirs in case.recorded["estimates"].items():
            if theirs is not None:
                ours, value = make(name)
                yield Line(case.name, ours, value, theirs)
        yield from _likelihood(case, make)


def _cases(folder: Path) -> Iterator[Case]:
    folder = folder / "reference" if (folder / "reference").is_dir() else folder
    for path in sorted(folder.glob("*.json")):
        recorded, rows = json.loads(path.read_text()), _rows(path)
        if rows is not None and "estimates" in recorded:
            yield Case(path.stem, recorded, rows)


def _rows(path: Path) -> pa.Table | None:
    for candidate in (path.with_suffix(".parquet"), path.with_name(f"{path.stem}_rows.parquet")):
        if candidate.exists() and "reward" in pq.read_schema(candidate).names:
            return pq.read_table(candidate)
    return None


def _maker(case: Case) -> Callable[[str], tuple[str, float]]:
    """Their name -> our name and our value, for the kind of rows that the case has."""
    columns = set(case.rows.column_names)
    if "pscore_density" in columns:
        return lambda name: _continuous(case, name)
    batch = _slates(case.rows) if "slate_id" in columns else _single(case)
    if "stratum" in columns:
        return lambda name: _strata(case, batch, name)
    return lambda name: _of_catalog(case, batch, name)


def _of_catalog(case: Case, batch: Batch, name: str) -> tuple[str, float]:
    ours = OURS.get(name, name)
    tamed = _TAMED.fullmatch(name)
    if tamed and tamed["family"] in FAMILY:
        ours = f"{FAMILY[tamed['family']]}:{tamed['number']}"
    return ours, _value(batch, ours, numbers=_lambdas(case.recorded))


def _value(batch: Batch, ours: str, *, numbers: tuple[float, ...] = ()) -> float:
    family, _, number = ours.partition(":")
    try:
        entry = tuned(FAMILIES[family], method=number, numbers=numbers) if number in ("slope", "mse") else estimator(ours)
        return entry.finish(entry.moments(batch), 0.05).value
    except Exception as error:
        print(f"{ours}: {error}", file=sys.stderr)
        return math.nan


def _lambdas(recorded: Mapping[str, Any]) -> tuple[float, ...]:
    given = recorded.get("lambdas") or recorded.get("settings", {}).get("lambdas_for_tuned") or ()
    return tuple(float(number) for number in given)


def _likelihood(case: Case, make: Callable[[str], tuple[str, float]]) -> Iterator[Line]:
    for name, theirs in case.recorded.get("vw_estimators_0_2_2", {}).items():
        if name in _LIKELIHOOD:
            batch = _single(case)
            assert batch.weight is not None
            value = _LIKELIHOOD[name](weight=batch.weight[:, 0], reward=batch.reward[:, 0])
            yield Line(case.name, f"vw {name}", value, theirs)
        else:
            yield Line(case.name, f"vw {name}", make(name)[1], theirs)


def _single(case: Case) -> Batch:
    rows, extra = case.rows, {}
    logged = rows["pscore"].to_numpy()
    if "action_dist" not in rows.column_names:
        q, v, chosen = (rows[name].to_numpy() for name in ("q_hat_logged", "v_hat", "pi_e"))
        if "pscore_avg" in rows.column_names:
            extra["mixture_weight"] = chosen / rows["pscore_avg"].to_numpy()
        return single_actions(reward=rows["reward"].to_numpy(), weight=chosen / logged, q_logged=q, v_target=v, **extra)
    row, action = np.arange(rows.num_rows), rows["action"].to_numpy()
    target, model = _matrix(rows["action_dist"]), _matrix(rows["q_hat"]) if "q_hat" in rows.column_names else None
    if "pscore_avg" in rows.column_names:
        extra["mixture_weight"] = target[row, action] / rows["pscore_avg"].to_numpy()
    if "action_embed" in rows.column_names:
        embedding, chance = _matrix(rows["action_embed"]).astype(np.int64), np.array(case.recorded["p_e_a"])
        extra["embedding_weight"] = embedding_weights(embedding=embedding, chance=chance, target=target, logged=_matrix(rows["pi_b"]))
    return single_actions(
        reward=rows["reward"].to_numpy(),
        weight=target[row, action] / logged,
        q_logged=None if model is None else model[row, action],
        v_target=None if model is None else (target * model).sum(axis=1) / target.sum(axis=1),
        **extra,
    )


def _slates(rows: pa.Table) -> Batch:
    rows = rows.sort_by([("slate_id", "ascending"), ("position", "ascending")])
    slots = int(rows["position"].to_numpy().max()) + 1

    def column(name: str) -> np.ndarray:
        return rows[name].to_numpy().reshape(-1, slots)

    reward, present = column("reward"), np.ones((rows.num_rows // slots, slots), bool)
    first = np.ones((len(reward), 1))
    target, logged = (
        prefix / np.concatenate([first, prefix[:, :-1]], axis=1)
        for prefix in (np.maximum(column("pi_e_cascade"), 0), column("pscore_cascade"))
    )
    batch = Batch(reward, prefix_weights(target=np.nan_to_num(target), logged=logged, present=present))
    if "pscore_item_position" in rows.column_names:
        marginal = column("pi_e_item_position") / column("pscore_item_position")
        batch = batch._replace(marginal_weight=marginal, slate_weight=product_weights(marginal)[:, None])
    if "q_hat" in rows.column_names:
        model, chance = _matrix(rows["q_hat"]), _matrix(rows["pi_e_action_dist"])
        logged_q = model[np.arange(len(model)), rows["action"].to_numpy()]
        batch = batch._replace(q_logged=logged_q.reshape(reward.shape), v_target=(model * chance).sum(axis=1).reshape(reward.shape))
    elif "q_hat_logged" in rows.column_names:
        batch = batch._replace(q_logged=column("q_hat_logged"), v_target=column("v_hat"))
    return batch


def _continuous(case: Case, name: str) -> tuple[str, float]:
    found = _KERNEL.fullmatch(name)
    if found is None:
        return name, math.nan
    columns = {column: case.rows[column].to_numpy() for column in case.rows.column_names if column != "context"}
    weight = kernel_weights(
        logged=columns["action"],
        target=columns["action_eval"],
        density=columns["pscore_density"],
        kernel=found["kernel"],
        bandwidth=float(found["bandwidth"]),
    )
    model = columns["q_hat_at_eval"]
    batch = single_actions(reward=columns["reward"], q_logged=model, v_target=model, kernel_weight=weight)
    return f"{KERNEL[found['name']]} {found['kernel']} {found['bandwidth']}", _value(batch, KERNEL[found["name"]])


def _strata(case: Case, batch: Batch, name: str) -> tuple[str, float]:
    kind, _, base = name.partition("_")
    if kind != "weighted":
        return _of_catalog(case, batch, name)
    place = case.rows["stratum"].to_numpy()
    parts = [Batch(*(None if x is None else x[place == k] for x in batch)) for k in np.unique(place)]
    return name, weighted([stratum(part, name=base) for part in parts]).value


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), np.float64)


def main() -> None:
    """Prints the comparison of the folder that is named."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"error: FOLDER: {sys.argv[1:]} is refused; give one folder of NAME.json with NAME.parquet")
    print(f"{'case':45} {'estimator':32} {'ours':>24} {'theirs':>24} {'relative':>10}")
    apart = 0
    for line in lines(Path(sys.argv[1])):
        apart += not line.relative <= LIMIT
        print(f"{line.case:45} {line.name:32} {line.ours:24.17g} {line.theirs:24.17g} {line.relative:10.1e}")
    if apart:
        sys.exit(f"error: {apart} figures are apart by more than {LIMIT:g}, or are not ours")


if __name__ == "__main__":
    main()
