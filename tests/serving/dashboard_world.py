"""A loop at rest, made by hand for the dashboard: a store with a history, rows with known figures, and what servers would have said."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa

from bandits.catalog import build
from bandits.config import TaskPolicy
from bandits.first import ensure_champion
from bandits.snapshots import Draft
from bandits.store import Store
from protos.observations import OBSERVATION_SCHEMA

BEGAN_US, ROWS, SECONDS = 1_800_000_000_000_000, 6_000, 600
# Mean reward under the first champion, the second, and the one whose promotion is staged.
MEANS = (0.2, 0.45, 0.6)
SHARE = 0.1
REASON = (
    "The challenger's reward is +0.2503 against the champion's (from +0.2101 to +0.2905, rips, 2000 rows): its lower end is above +0.0000."
)


def estimate(value: float, half: float) -> dict[str, float]:
    """An estimate as a verdict has it, as far as the page reads it."""
    return {"value": value, "lower": value - half, "upper": value + half}


def verdict(decision: str, challenger: str, champion: str, *, at_s: float, **more: Any) -> dict[str, Any]:
    """A verdict in brief."""
    about = {"decision": decision, "challenger": challenger, "champion": champion, "kind": "change", "label": "", "rows": 2_000}
    about |= {"estimator": "rips", "estimates": {}, "metric": "reward", "margin": 0.0, "next_share": 1.0, "reasons": [REASON]}
    return {**about, "decided_us": BEGAN_US + int(at_s * 1e6), **more}


def published(store: Store, task: TaskPolicy, *, seed: int, label: str = "") -> str:
    """A snapshot that knows nothing, told apart by its time."""
    about = {
        "schema_digest": task.schema.digest,
        "config_digest": task.config_digest,
        "kind": "change",
        "label": label,
        "rows": 1_000 * seed,
    }
    manifest = {"tenant": task.tenant, "task": task.name, "actions": task.schema.actions, "created_us": BEGAN_US + seed, **about}
    return store.publish(Draft(spec=task.spec, state=build(task.spec).init(), manifest=manifest))


def moved(folder: Path, task: TaskPolicy) -> tuple[str, str, str]:
    """A store with two promotions, the second staged, a hold, a veto, a follow-up and a challenger that waits; the three who decided."""
    store = Store(folder / "store", task.name)
    first = ensure_champion(store, task, now_us=BEGAN_US - 1_000_000, actor="serving").digest
    second, held, bad, third, waits = (published(store, task, seed=seed, label="drill" if seed == 3 else "") for seed in range(1, 6))
    better = {"rips": {"difference": estimate(0.25, 0.04), "challenger": estimate(0.45, 0.03)}}
    promoting = verdict("promote", second, first, at_s=199, estimates=better)
    store.promote(second, verdict=promoting, expected=store.champion(), now_us=BEGAN_US + 200_000_000, actor="ope gate")
    said = "reward was predicted as 0.4500 (from 0.4200 to 0.4800) and came as 0.4480 (from 0.4300 to 0.4660) in 1990 rows: as predicted."
    came = {"said": said, "wrong": False, "realised": [0.448, 0.43, 0.466]}
    store.put_note("followups", store.verdict_ids()[-1], came)
    unsure = {"rips": {"difference": estimate(0.01, 0.05), "challenger": estimate(0.46, 0.05)}}
    store.put_verdict(
        verdict("hold", held, second, at_s=280, estimates=unsure, reasons=["The lower end of the difference, -0.0400, is below 0."])
    )
    store.put_verdict(
        verdict("veto", bad, second, at_s=330, label="drill", reasons=["Effective rows 112 are fewer than 200: the log never tried it."])
    )
    step = verdict("promote", third, second, at_s=399, next_share=SHARE, estimates={"rips": {"difference": estimate(0.12, 0.05)}})
    store.promote(third, verdict=step, expected=store.champion(), now_us=BEGAN_US + 400_000_000, actor="ope gate", share=SHARE)
    store.challenge(waits, now_us=BEGAN_US + 590_000_000)
    return first, second, third


def rows(task: str, policies: tuple[str, str, str], *, actions: list[str], seed: int = 5) -> dict[str, Any]:
    """The columns that the page reads, oldest first: 10 decisions a second, two slots, of which the lower is seen half of the time."""
    rng = np.random.default_rng(seed)
    place = np.arange(ROWS)
    third = (place * SECONDS / ROWS >= 400) & (rng.random(ROWS) < SHARE)
    who = np.where(third, 2, (place * SECONDS / ROWS >= 200).astype(int))
    reward = (rng.random(ROWS) < np.array(MEANS)[who]).astype(float)
    slates = np.argsort(rng.random((ROWS, len(actions))), axis=1)[:, :2]
    lower_seen = rng.random(ROWS) < 0.5
    propensity = np.where(who == 0, 1 / len(actions), rng.uniform(0.02, 0.95, ROWS))
    time_us = BEGAN_US + place * (SECONDS * 1_000_000 // ROWS)
    return {
        "decision_id": [int(at).to_bytes(16, "big") for at in place],
        "task": [task] * ROWS,
        "decision_time_us": time_us.tolist(),
        "watermark_us": (time_us + 3_000_000).tolist(),
        "reward": reward.tolist(),
        "status": ["final"] * (ROWS - 20) + ["provisional"] * 20,
        "snapshot_digest": [policies[at] for at in who],
        "policy": [("uniform", "linear_thompson", "linear_thompson")[at] for at in who],
        "arm": np.where(third, "challenger", "champion").tolist(),
        "overridden": [at == 17 for at in place],
        "logged": [True] * ROWS,
        "fallback": [3 if at == 18 else 0 for at in place],
        "slot_action": [[actions[a] for a in slate] for slate in slates],
        "slot_propensity": [[float(p), float(p) / 2] for p in propensity],
        "slot_reward": [[value, 0.0 if seen else None] for value, seen in zip(reward.tolist(), lower_seen, strict=True)],
        "revision": [1] * ROWS,
        "partition": [0] * ROWS,
        "commit_seq": [1] * ROWS,
    }


def joined(folder: Path, columns: dict[str, Any]) -> Path:
    """The columns as an observations table."""
    n = len(columns["reward"])
    filled = {name: columns.get(name, [None] * n) for name in OBSERVATION_SCHEMA.names}
    table = folder / "attribution" / "observations"
    table.parent.mkdir(parents=True, exist_ok=True)
    deltalake.write_deltalake(str(table), pa.table(filled, schema=OBSERVATION_SCHEMA))
    return table


def exposition(calls: int) -> str:
    """What a server says after so many calls: half of them within 1 ms, all but one in fifty within 5 ms, the rest within 20 ms."""
    lines = [f"slateloop_decisions_total {calls}", "slateloop_fallbacks_total 0", 'slateloop_log_blocked{log="decisions"} 0']
    lines += [f'slateloop_calls_total{{method="Select",code="OK"}} {calls}', 'slateloop_calls_total{method="Select",code="NOT_FOUND"} 3']
    for bound, share in (("0.001", 0.5), ("0.005", 0.98), ("0.02", 1.0), ("+Inf", 1.0)):
        lines.append(f'slateloop_call_seconds_bucket{{method="Select",le="{bound}"}} {calls * share}')
        lines.append(f'slateloop_call_seconds_bucket{{method="Feedback",le="{bound}"}} 1000000')
    return "\n".join(lines) + "\n"


JOINER = """slateloop_join_freshness_seconds{quantile="0.5"} 0.4
slateloop_join_freshness_seconds{quantile="0.99"} 1.9
slateloop_join_watermark_age_seconds{partition="0"} 1.25
slateloop_join_events_total{counted_as="attributed"} 5000
slateloop_join_events_total{counted_as="late"} 12
slateloop_join_overridden_rows_total 1
"""


@contextmanager
def endpoint(*texts: str) -> Iterator[str]:
    """An address that answers like Prometheus' exporters, each time with the next of the texts, and then with the last."""
    waiting = list(texts)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (waiting.pop(0) if len(waiting) > 1 else waiting[0]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
