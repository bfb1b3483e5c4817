"""Benchmark of the evaluator: rows a second and memory; one JSON object a line with --json, else a line of text a figure.

    python tests/bench/ope.py --json [--rows N] [--no-peers]

Ours reads the per-row columns from a Parquet file (reward, weight, model at the logged action, model under the target, user) and makes 13
point estimates with intervals clustered by user in one pass, in a process of its own. The peer, Open Bandit Pipeline, makes its DR with
a 100-resample bootstrap from arrays in memory: only its work is timed, neither reading nor starting. Rounds alternate; `cpu` lines
compare CPU time, which a busy machine disturbs less. The peer is installed into `.bench/ope`, an environment of its own.

The value of a learned policy on a log, a fifth of the rows: ours reads contexts, logged actions, propensities and rewards from Parquet and
asks a snapshot (softmax of a linear regression) for its integer propensity of the logged action, under its floor and masks, as it serves.
The peer has no snapshots: its learners give probabilities of all actions by `predict_proba`, softmax of a regression (QLearner) or of a
classifier (IPWLearner), from arrays in memory, and IPS follows. Its contextual Thompson sampling has no distribution at all, only draws
(`BernoulliTS.compute_batch_action_dist`, by simulation, has no context), so Thompson sampling is not compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from peers.figures import Figure, printed
from peers.workers import Worker, installed

from bandits.catalog import PolicySpec, build
from bandits.policy import Batch, Dims
from bandits.programs import update_program
from bandits.snapshots import Draft
from bandits.store import Store

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy<2", "scipy", "pandas<3", "scikit-learn<1.6", "tqdm")
PEER = "obp==0.5.7"
NAMES = ("ips", "snips", "dm", "dr", "sndr", "clipped_ips:10", "clipped_dr:10", "switch_dr:10", "dros:100", "sg_ips:0.1", "sg_dr:0.1")
NAMES += ("clipped_ips:100", "switch_dr:100")
CONTEXT_SIZE = 10
ROUNDS, ROWS_A_USER, RATIO_TARGET, PEAK_TARGET_MB = 3, 10, 5.0, 500.0
BLOCK = 100_000


# What ours does, in a fresh process, so that its peak is its own: reading, all estimates, and all intervals.
OURS = """
import json, sys, time
from pathlib import Path
from ope.evaluate import evaluate
from ope.parquet_log import ColumnMapping, read_batches
file, names, interval = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
mapping = ColumnMapping("reward", weight="weight", q_logged="q_logged", v_target="v_target", unit="user" if interval != "none" else None)
spent = []
for _ in range(2):
    started, cpu = time.perf_counter(), time.process_time()
    if interval == "bootstrap":
        from ope.resampling import poisson_bootstrap
        found = evaluate(read_batches(Path(file), mapping), names=names, interval=poisson_bootstrap(replicates=100))
    else:
        found = evaluate(read_batches(Path(file), mapping), names=names)
    spent.append((time.perf_counter() - started, time.process_time() - cpu))
# Of this program alone: what getrusage says includes the process that started it, arrays and all.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
dr = found["dr"]
print(json.dumps({"wall_s": spent[1][0], "cpu_s": spent[1][1], "value": dr.value, "units": dr.n_units, "peak_mb": peak}))
"""


def ours(file: Path, interval: str, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """One round of ours, after one to warm up."""
    command = [sys.executable, "-c", OURS, str(file), ",".join(names), interval]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def world(folder: Path, *, rows: int, actions: int) -> tuple[Path, Path]:
    """The same log twice: per-row columns in Parquet for ours, whole arrays for the peer, made in blocks of rows."""
    rng = np.random.default_rng(0)
    columns: dict[str, list[np.ndarray]] = {}
    whole = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", float, (rows, actions)) for name in ("action_dist", "q_hat")}
    for start in range(0, rows, BLOCK):
        part = slice(start, min(start + BLOCK, rows))
        target, model = (rng.random((part.stop - start, actions)) for _ in range(2))
        target /= target.sum(axis=1, keepdims=True)
        whole["action_dist"][part], whole["q_hat"][part] = target, model
        action = rng.integers(0, actions, len(target))
        at, pscore = np.arange(len(target)), np.full(len(target), 1 / actions)
        made = {"reward": rng.binomial(1, 0.1, len(target)).astype(float), "action": action, "pscore": pscore}
        made |= {"weight": target[at, action] / pscore, "q_logged": model[at, action], "v_target": (target * model).sum(axis=1)}
        for name, values in (made | {"user": rng.integers(0, rows // ROWS_A_USER, len(target))}).items():
            columns.setdefault(name, []).append(values)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    for name in ("reward", "action", "pscore"):
        np.save(folder / f"{name}.npy", joined[name])
    log = folder / "log.parquet"
    pq.write_table(
        pa.table({name: joined[name] for name in ("reward", "weight", "q_logged", "v_target", "user")}), log, row_group_size=1 << 17
    )
    return log, folder


def figures(rows: int, actions: int, peer: Worker | None, folder: Path) -> Iterator[Figure]:
    """Ours against the peer at so many actions."""
    log, arrays = world(folder, rows=rows, actions=actions)
    kinds: dict[str, list[dict[str, Any]]] = {"clustered": [], "none": [], "bootstrap": [], "dr": [], "dr alone": []}
    told: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for kind, found in kinds.items():
            interval = {"dr": "clustered", "dr alone": "none"}.get(kind, kind)
            found.append(ours(log, interval, NAMES if kind in ("clustered", "none") else ("dr",)))
        for interval, answers in told.items():
            if peer is not None:
                answers.append(_told(peer, "dr", file=str(arrays), interval=interval))
    title = peer.title if peer is not None else None
    for clock in ("wall", "cpu"):
        target = RATIO_TARGET if actions == 10 else None
        for name, kind, interval, wanted in (
            (f"{len(NAMES)} estimators with clustered intervals, from Parquet, against DR with 100 resamples", "clustered", True, target),
            (f"{len(NAMES)} estimators, rows taken as units, from Parquet, against DR's value alone", "none", False, None),
            (
                "DR's value alone (its error, rows taken as units, comes with it), from Parquet, against DR's value alone",
                "dr alone",
                False,
                None,
            ),
            ("DR alone with clustered interval, from Parquet, against DR with 100 resamples", "dr", True, None),
            ("DR alone with Poisson bootstrap of 100 by user, from Parquet, against DR with 100 resamples", "bootstrap", True, None),
        ):
            value = rows / statistics.median(answer[f"{clock}_s"] for answer in kinds[kind])
            theirs = [rows / answer[f"{clock}_s"] for answer in told[interval] if answer]
            other = statistics.median(theirs) if theirs else None
            ratio = value / other if other else None
            note = "the target is on the ratio" if wanted else ""
            yield Figure(f"K={actions}, {clock}: {name}", value, "rows/s", wanted, "higher", title, other, ratio, ROUNDS, note)
    peak = max(answer["peak_mb"] for answer in kinds["clustered"])
    theirs = [answer["peak_mb"] for answer in told[True] if answer]
    other = max(theirs) if theirs else None
    yield Figure(f"K={actions}: peak memory", peak, "MB", PEAK_TARGET_MB, "lower", title, other, other / peak if other else None, ROUNDS)
    if theirs:
        apart = abs(kinds["clustered"][0]["value"] - told[True][0]["value"])
        yield Figure(f"K={actions}: DR of both, apart", apart, "reward", 1e-12, "lower", title, None, None, 1)


# The same for a policy: the snapshot is asked for its propensities of what was logged.
OURS_OF_POLICY = """
import json, sys, time
from pathlib import Path
from bandits.loaded import load_policy
from ope.evaluate import evaluate
from ope.snapshot_columns import SnapshotColumns, read_under
file, snapshot = Path(sys.argv[1]), Path(sys.argv[2])
policy, columns, spent = load_policy(snapshot), SnapshotColumns("action", "reward", "pscore", context=("context",)), []
for _ in range(2):
    started, cpu = time.perf_counter(), time.process_time()
    found = evaluate(read_under(file, columns, policy=policy, kind="parquet"), names=["ips"])
    spent.append((time.perf_counter() - started, time.process_time() - cpu))
print(json.dumps({"wall_s": spent[1][0], "cpu_s": spent[1][1], "value": found["ips"].value}))
"""


def policy_world(folder: Path, *, rows: int, actions: int) -> tuple[Path, Path]:
    """A log of even draws as Parquet and as arrays, and a snapshot that learned from its first rows."""
    rng = np.random.default_rng(1)
    columns = {"context": rng.normal(size=(rows, CONTEXT_SIZE)).astype(np.float32), "action": rng.integers(0, actions, rows)}
    columns |= {"reward": rng.binomial(1, 0.1, rows).astype(float), "pscore": np.full(rows, 1 / actions)}
    for name, values in columns.items():
        np.save(folder / f"policy_{name}.npy", values)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(columns["context"].ravel()), CONTEXT_SIZE).cast(pa.list_(pa.float32()))
    log = folder / "policy.parquet"
    pq.write_table(pa.table({**columns, "context": lists}), log, row_group_size=1 << 17)
    spec = PolicySpec.of("softmax", {}, floor=0.0, dims=Dims(actions=actions, context=CONTEXT_SIZE, features=0))
    first = Batch.of(*(columns[name][:5_000] for name in ("context", "action", "reward")))
    about = {"tenant": "bench", "task": "bench", "schema_digest": "", "config_digest": "", "kind": "change", "created_us": 1}
    about |= {"actions": tuple(map(str, range(actions)))}
    store = Store(folder / "store", "bench")
    digest = store.publish(Draft(spec=spec, state=update_program(spec)(build(spec).init(), first), manifest=about))
    return log, store.snapshot_dir(digest)


def policy_figures(rows: int, actions: int, peer: Worker | None, folder: Path) -> Iterator[Figure]:
    """The value of a learned policy on a log, its propensities included."""
    log, snapshot = policy_world(folder, rows=rows, actions=actions)
    mine, told = [], {"q": [], "ipw": []}
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", OURS_OF_POLICY, str(log), str(snapshot)]
        mine.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout))
        for learner, answers in told.items():
            if peer is not None:
                answers.append(_told(peer, "policy", file=str(folder), learner=learner))
    for clock in ("wall", "cpu"):
        value = rows / statistics.median(answer[f"{clock}_s"] for answer in mine)
        for learner, title in (("q", "QLearner.predict_proba"), ("ipw", "IPWLearner.predict_proba")):
            theirs = [rows / answer[f"{clock}_s"] for answer in told[learner] if answer]
            other = statistics.median(theirs) if theirs else None
            name = f"K={actions}, {clock}: IPS of a snapshot's policy, from Parquet, against {title} and IPS from memory"
            yield Figure(name, value, "rows/s", None, "higher", peer and peer.title, other, value / other if other else None, ROUNDS)


def main() -> None:
    """Runs both sizes, and prints the figures as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the log")
    parser.add_argument("--actions", default="10,100", help="numbers of actions, separated by commas")
    parser.add_argument("--no-peers", action="store_true", help="install and run no peer")
    given = parser.parse_args()
    for actions in map(int, given.actions.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            peer = None if given.no_peers else _peer()
            try:
                for figure in (
                    *figures(given.rows, actions, peer, Path(scratch)),
                    *policy_figures(given.rows // 5, actions, peer, Path(scratch)),
                ):
                    printed(figure, as_json=given.json)
            finally:
                if peer is not None:
                    peer.__exit__()


def _told(peer: Worker, task: str, **request: Any) -> Any:
    """The peer's answer; without one, why not is said and the figure stands alone."""
    answer = peer.ask(task, **request)
    if answer.error:
        print(f"peers: {peer.peer} has no answer to {task}: {answer.error}", file=sys.stderr, flush=True)
    return answer.value


def _peer() -> Worker | None:
    python, faults = installed(PACKAGES, folder=ROOT / ".bench" / "ope")
    # Its pins ask for an older Python; what its estimators import is installed above.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--ignore-requires-python", PEER]
    ended = subprocess.run(pip, capture_output=True, text=True, check=False)
    faults = {**faults, **({PEER: ended.stderr.strip().splitlines()[-1]} if ended.returncode else {})}
    for package, fault in faults.items():
        print(f"peers: {package} cannot be installed: {fault}", file=sys.stderr, flush=True)
    return None if faults else Worker(python, "obp", script="ope_peers.py")


if __name__ == "__main__":
    main()
