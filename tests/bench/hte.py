"""Benchmark of effects and personalised policies; one JSON object a line with --json, else a line of text a figure.

    python tests/bench/hte.py --json [--rows N] [--only regression,tree,served,lessons,coverage,cates,levels] [--no-peers]

Peers (statsmodels, pyfixest, EconML) are installed into `.bench/hte`, an environment of their own, and run in processes of their own, with
one thread as ours, on the same rows, in rounds that alternate with ours. `value` is ours, `peer_value` theirs, `ratio` what ours is better
by. Clocks of a busy machine are no verdict: read ratios.
"""

import argparse
import contextlib
import functools
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from peers.figures import Figure, printed
from peers.workers import Worker, installed
from threadpoolctl import threadpool_limits

from bandits.effects.cells import Cells, compress
from bandits.effects.config import EffectsFile
from bandits.effects.design import assembled, intercept, number_part
from bandits.effects.fit import ErrorKind, Fit, Normal, fit, normal
from bandits.effects.report import effects_report
from bandits.personalise.black_box import black_box
from bandits.personalise.boosting import binned, edges_of
from bandits.personalise.cate import cate, lines
from bandits.personalise.judge import mean_and_error
from bandits.personalise.learners import Model, Ridge, Rows, crossed, doubly_robust, folds_of, t_learner
from bandits.personalise.lessons import lesson
from bandits.personalise.tree import grown
from bandits.personalise.tree_shape import PolicyTree, arms_of_rows
from bandits.policies.policy_tree import leaf_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("statsmodels", "pyfixest", "econml")
ROUNDS, GROUPS, ARMS, DEPTH = 3, 50_000, 3, 3
FIT_TARGET, REFIT_TARGET, CLUSTER_TARGET, TREE_TARGET = 15.0, 100.0, 4.0, 10.0
Workers = Mapping[str, Worker]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and what came."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def regression(workers: Workers, folder: Path, rows: int) -> Iterator[Figure]:
    """20 indicator columns of four factors of six levels, so 1,296 cells; ours from raw rows, and again from cells."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 6, (rows, 4))
    x = (levels[:, :, None] == np.arange(1, 6)).reshape(rows, 20).astype(np.float64)
    y, cluster = x @ rng.normal(size=20) + rng.normal(size=rows) * (1 + x[:, 0]), rng.integers(0, GROUPS, rows)
    file = folder / "regression.npz"
    np.savez(file, x=x, y=y, cluster=cluster)
    columns = {f"x{at}": np.ascontiguousarray(x[:, at]) for at in range(20)}
    for clustered, title, target in ((False, "HC1", FIT_TARGET), (True, f"{GROUPS} clusters", CLUSTER_TARGET)):
        kind: ErrorKind = "cluster" if clustered else "hc1"
        fresh = functools.partial(_fitted, columns, y, cluster if clustered else None, kind)
        ours, theirs, again = [], {name: [] for name in ("statsmodels", "pyfixest") if name in workers}, []
        for _ in range(ROUNDS):
            seconds, (cells, equations, found) = timed(fresh)
            ours.append(seconds)
            again.append(timed(functools.partial(fit, equations, cells, "y", errors=[kind]))[0])
            for name, answers in theirs.items():
                answers.append(workers[name].ask("regression", file=str(file), clustered=clustered))
        yield from _against(f"compress and fit, {title}, {rows} x 20", ours, theirs, workers, target, found, kind)
        yield from _against(f"refit on cells, {title}", again, theirs, workers, REFIT_TARGET, found, kind)
    yield Figure("peak memory of this process, rows and columns included", _peak_mib(), "MiB", None, "lower")


def _fitted(columns: Mapping[str, np.ndarray], y: np.ndarray, cluster: np.ndarray | None, kind: ErrorKind) -> tuple[Cells, Normal, Fit]:
    cells = compress(columns, {"y": y}, cluster=cluster)
    weight = cells.sums["y"].weight
    equations = normal(assembled([intercept(cells.size), *(number_part(n, v, weight) for n, v in cells.columns.items())]), weight)
    return cells, equations, fit(equations, cells, "y", errors=[kind])


def _against(
    title: str, ours: Sequence[float], theirs: Mapping[str, list[Any]], workers: Workers, target: float, found: Fit, kind: str
) -> Iterator[Figure]:
    mine = statistics.median(ours)
    if not theirs:
        yield Figure(title, mine, "s", target, "lower", rounds=len(ours))
    for name, answers in theirs.items():
        if fault := next((answer.error for answer in answers if answer.error), ""):
            yield Figure(title, mine, "s", target, "lower", name, rounds=len(ours), note=fault)
            continue
        seconds = statistics.median(answer.value["seconds"] for answer in answers)
        off = [np.max(np.abs(np.array(answers[0].value["coefficient"]) / found.coefficient[1:] - 1.0))]
        off.append(np.max(np.abs(np.array(answers[0].value["error"]) / found.error(kind)[1:] - 1.0)))
        note = f"target is the ratio; coefficients within {off[0]:.1e}, errors within {off[1]:.1e} of theirs"
        yield Figure(title, mine, "s", target, "lower", workers[name].title, seconds, seconds / mine, len(ours), note)


def tree(workers: Workers, folder: Path, rows: int) -> Iterator[Figure]:
    """20 columns, three arms, depth 3, on noisy scores; values are of the true effects on fresh rows."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows + 100_000, 20))
    truth = np.stack([np.zeros(len(x)), x[:, 0] * x[:, 1] + 0.5 * x[:, 2], 0.7 * (x[:, 3] > 0) * x[:, 4]], axis=1)
    scores, fresh = truth[:rows] + rng.normal(size=(rows, ARMS)), x[rows:]
    file = folder / "tree.npz"
    np.savez(file, x=x[:rows], scores=scores, fresh=fresh)
    least = rows // 100
    # Both are one thread that only computes, so CPU time is what is compared: it leaves out who else is on the machine.
    start = time.process_time()
    found = grown(binned(x[:rows], edges_of(x[:rows])), scores, depth=DEPTH, least=least)
    seconds = time.process_time() - start
    title = f"policy tree, {rows} x 20 x {ARMS}, depth {DEPTH}"

    def value(arms: np.ndarray) -> float:
        return float(truth[rows:][np.arange(len(fresh)), arms].mean())

    mine = value(arms_of_rows(found, fresh))
    if "econml" not in workers:
        yield Figure(title, seconds, "CPU s", TREE_TARGET, "lower", note=f"value {mine:.4f}")
        return
    answer = workers["econml"].ask("tree", file=str(file), depth=DEPTH, least=least)
    if answer.error:
        yield Figure(title, seconds, "CPU s", TREE_TARGET, "lower", "econml", note=answer.error)
        return
    theirs, name = value(np.array(answer.value["arms"])), workers["econml"].title
    peer = answer.value["seconds"]
    yield Figure(
        title, seconds, "CPU s", TREE_TARGET, "lower", name, peer, peer / seconds, 1, "target is the ratio; ours bins the rows too"
    )
    yield Figure(f"value of the {title}", mine, "reward", None, "higher", name, theirs, mine / theirs)


def served(workers: Workers, folder: Path, rows: int) -> Iterator[Figure]:
    """4,096 rows through the arrays of a tree of depth 3, compiled."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4_096, 20))
    file = folder / "served.npz"
    np.savez(file, x=x, scores=rng.normal(size=(4_096, 2)))
    arrays = jax.numpy.asarray(rng.integers(0, 20, 7), np.int32), jax.numpy.asarray(rng.normal(size=7))
    program = jax.jit(jax.vmap(leaf_of, in_axes=(None, None, 0)))
    program(*arrays, x).block_until_ready()
    seconds, _ = timed(lambda: [program(*arrays, x).block_until_ready() for _ in range(50)])
    mine = 50 * len(x) / seconds
    answer = workers["econml"].ask("predict", file=str(file), rows=len(x)) if "econml" in workers else None
    for kind, target in (("single", 20.0), ("batch", 1 / 3)):
        theirs = answer.value[kind] if answer is not None and not answer.error else None
        ratio = None if theirs is None else mine / theirs
        yield Figure(
            f"tree, rows a second in batches of 4096, beside {kind}", mine, "rows/s", target, "higher", "scikit-learn", theirs, ratio, 50
        )


def worlds(rng: np.random.Generator, z: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Effects of two arms over the third by covariates f64[n, d], of a deviation of one: lines, products, and steps."""
    d = z.shape[1]
    sparse = np.zeros((d, 2))
    for arm in range(2):
        sparse[rng.choice(d, 3, replace=False), arm] = 1.0
    steps = [np.where((z[:, 0] > 0) & (z[:, 1] > 0), 2.0, -1.0), np.where(z[:, 3] > 0, 1.0, np.where(z[:, 4] > 0.5, 1.5, -1.0))]
    found = {
        "dense lines": z @ rng.normal(size=(d, 2)),
        "sparse lines": z @ sparse,
        "products": np.stack([np.sin(2 * z[:, 0]) + z[:, 1] * z[:, 5], z[:, 6] ** 2 - 1 + z[:, 2]], axis=1),
        "steps": np.stack(steps, axis=1),
    }
    yield from ((name, effects / effects.std(axis=0)) for name, effects in found.items())


def lessons(workers: Workers, folder: Path, rows: int) -> Iterator[Figure]:
    """How much of the black box's gain a tree of depth 3 keeps on fresh rows: ours, one that learns scores, and EconML's."""
    kept: dict[str, list[float]] = {"ours": [], "scores": [], "econml": []}
    n = max(rows // 250, 500)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = np.round(rng.normal(size=(2 * n, 10)), 1)
        for _, effects in worlds(rng, x):
            truth = np.column_stack([np.zeros(2 * n), 0.3 * effects]) + 0.5 * x[:, :1]
            arm = rng.integers(0, ARMS, 2 * n)
            every = Rows(x, truth[np.arange(2 * n), arm] + rng.normal(size=2 * n), arm, np.full(2 * n, 1 / ARMS), ARMS)
            for name, share in _kept(workers, folder, every, truth[n:]).items():
                kept[name].append(share)
    peer = float(np.mean(kept["econml"])) if kept["econml"] else None
    for name in ("ours", "scores"):
        value, least = float(np.mean(kept[name])), float(np.min(kept[name]))
        ratio = None if peer is None else value / peer
        title = "share of the black box's gain kept by a tree of depth 3" + ("" if name == "ours" else ", learned from scores")
        yield Figure(title, value, "share", 0.57, "higher", "econml" if peer else None, peer, ratio, len(kept[name]), f"least {least:.2f}")


def _kept(workers: Workers, folder: Path, every: Rows, truth: np.ndarray) -> dict[str, float]:
    n = len(truth)
    train, fresh, least = every.at(np.arange(n)), every.x[n:], max(20, n // 100)
    box, bins = black_box(train), binned(train.x, edges_of(train.x))

    def gain(arms: np.ndarray) -> float:
        return float(truth[np.arange(n), arms].mean() - truth.mean(axis=0).max())

    scores = doubly_robust(train, crossed(t_learner(Ridge), train, folds_of(train.arm, 3)))
    taught = lesson(box, train, bins, np.zeros(ARMS), depth=DEPTH, least=least).taught
    trees: dict[str, PolicyTree] = {
        "ours": grown(bins, taught, depth=DEPTH, least=least),
        "scores": grown(bins, scores, depth=DEPTH, least=least),
    }
    whole = gain(np.argmax(box.model(fresh), axis=1))
    found = {name: gain(arms_of_rows(each, fresh)) / whole for name, each in trees.items()}
    if "econml" in workers:
        np.savez(folder / "lesson.npz", x=train.x, scores=scores, fresh=fresh)
        answer = workers["econml"].ask("tree", file=str(folder / "lesson.npz"), depth=DEPTH, least=least)
        found |= {} if answer.error else {"econml": gain(np.array(answer.value["arms"])) / whole}
    return found


def coverage(workers: Workers, folder: Path, rows: int) -> Iterator[Figure]:
    """How often 95 % intervals of an arm's doubly robust value hold its truth, over 1,000 experiments of 500 rows."""
    held, runs = 0, 1_000
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(500, 4))
        arm, truth = rng.integers(0, 2, 500), np.stack([np.zeros(500), 0.5 + x[:, 0]], axis=1) + x[:, 1:2]
        data = Rows(x, truth[np.arange(500), arm] + rng.normal(size=500), arm, np.full(500, 0.5), 2)
        scores = doubly_robust(data, crossed(t_learner(Ridge), data, folds_of(data.arm, 3)))
        low, high = mean_and_error(scores[:, 1] - scores[:, 0], None).interval
        held += low <= 0.5 <= high
    yield Figure(
        "coverage of 95 % intervals of the average effect", held / runs, "share", 0.95, "higher", rounds=runs, note="asked: 0.93 to 0.97"
    )


class Least:
    """Least squares, as the peer's outcome models."""

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None, /) -> "Least":
        self.b = np.linalg.lstsq(np.column_stack([np.ones(len(x)), x]), y, rcond=None)[0]
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.b[0] + x @ self.b[1:]


def additive(rows: Rows) -> Model:
    """One least squares of covariates and arms without their products, which is what the peer makes of LinearRegression."""
    arms = np.eye(rows.arms)
    model = Least().fit(np.column_stack([rows.x, arms[rows.arm][:, 1:]]), rows.y)
    return lambda x: np.column_stack([model.predict(np.column_stack([x, np.tile(arms[arm, 1:], (len(x), 1))])) for arm in range(rows.arms)])


def cates(workers: Workers, folder: Path, rows: int) -> Iterator[Figure]:
    """Effects as lines of six covariates, with errors, beside EconML's LinearDRLearner on the same rows; folds differ, so figures do."""
    n = rows // 5
    rng = np.random.default_rng(4)
    x, arm = np.round(rng.normal(size=(n, 6)), 2), rng.integers(0, ARMS, n)
    effect = np.stack([np.zeros(n), 0.5 + x[:, 0], 1.0 - x[:, 1]], axis=1)
    y = effect[np.arange(n), arm] + x @ rng.normal(size=6) + rng.normal(size=n) * (1 + np.abs(x[:, 2]))
    file = folder / "cates.npz"
    np.savez(file, x=x, y=y, arm=arm)
    share = np.bincount(arm) / n
    start = time.process_time()
    found = cate(Rows(x, y, arm, share[arm], ARMS), outcome=additive, basis=lines, folds=3)
    average, error = found.average(x)
    seconds, title = time.process_time() - start, f"effects as lines, {n} x 6 x {ARMS}"
    answer = workers["econml"].ask("linear_dr", file=str(file)) if "econml" in workers else None
    if answer is None or answer.error:
        yield Figure(title, seconds, "CPU s", None, "lower", note="" if answer is None else answer.error)
        return
    told, peer = answer.value, answer.value["seconds"]
    yield Figure(title, seconds, "CPU s", None, "lower", workers["econml"].title, peer, peer / seconds, 1)
    off = float(np.max(np.abs(average - told["average"]) / error))
    yield Figure("largest difference of average effects, in their errors", off, "errors", 0.2, "lower", workers["econml"].title)
    ratio = float(np.max(np.abs(np.array([each.error("hc1")[1:] for each in found.fits]) / np.array(told["slope_error"]) - 1.0)))
    yield Figure("largest difference of slopes' errors", ratio, "share", 0.02, "lower", workers["econml"].title)


def levels(workers: Workers, folder: Path, rows: int) -> Iterator[Figure]:
    """A factor of 50,000 levels among the covariates: time, and memory beyond the table, beside that of a factor expanded."""
    rng = np.random.default_rng(5)
    shop, arm, age = rng.integers(0, GROUPS, rows), rng.integers(0, 2, rows), rng.integers(20, 70, rows).astype(float)
    y = 0.5 * arm + 0.01 * age + rng.normal(size=GROUPS)[shop] + rng.normal(size=rows)
    table = pa.table({"arm": arm, "shop": pa.array(shop.astype(str)), "age": age, "y": y})
    file = EffectsFile(data="", treatment="arm", outcomes=("y",), covariates=("age", "shop"))
    before, start = _peak_mib(), time.process_time()
    (outcome,) = effects_report(table, file)["outcomes"]
    seconds, expanded = time.process_time() - start, rows * GROUPS * 8 / 2**20
    said = f"effect {outcome['effects'][0]['effect']:.4f} ({outcome['effects'][0]['standard_error']:.4f}); true 0.5"
    yield Figure(f"effects within {GROUPS} levels, {rows} rows", seconds, "CPU s", None, "lower", note=said)
    yield Figure("peak memory beyond the rows", _peak_mib() - before, "MiB", expanded / 100, "lower", note=f"expanded: {expanded:.0f} MiB")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {
    "regression": regression,
    "tree": tree,
    "served": served,
    "lessons": lessons,
    "coverage": coverage,
    "cates": cates,
    "levels": levels,
}


def main() -> None:
    """Runs what is asked for, and prints it as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the larger figures")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, separated by commas")
    parser.add_argument("--no-peers", action="store_true", help="install and run no peers")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as scratch, threadpool_limits(limits=1):
        workers = {} if given.no_peers else _workers(stack)
        for part in given.only.split(","):
            for figure in PARTS[part](workers, Path(scratch), given.rows):
                printed(figure, as_json=given.json)


def _workers(stack: contextlib.ExitStack) -> dict[str, Worker]:
    python, faults = installed(PACKAGES, folder=ROOT / ".bench" / "hte")
    for package, fault in faults.items():
        print(f"peers: {package} cannot be installed: {fault}", file=sys.stderr, flush=True)
    return {name: stack.enter_context(Worker(python, name, script="hte_peers.py")) for name in PACKAGES if name not in faults}


if __name__ == "__main__":
    main()
