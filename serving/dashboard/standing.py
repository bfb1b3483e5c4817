"""Who serves a task, who wants to, what the gate said, and the way back: read from the store, whatever of it is there."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bandits.errors import BanditsError
from bandits.store import Pointer, Store

__all__ = ["standing", "task_names"]

# Verdicts and moves that the page shows, newest first.
_SHOWN = 40
_MOVES = ("begin", "promote", "stage", "rollback", "kill_switch_on", "kill_switch_off")


def task_names(root: Path) -> list[str]:
    """Tasks of a store that have a champion, by name."""
    return sorted(path.parent.name for path in root.glob("*/champion.json"))


def standing(root: Path, task: str) -> dict[str, Any] | None:
    """What the store says of a task; None where it has no champion. Raises BanditsError for a store that cannot be read."""
    store = Store(root, task)
    pointer = store.champion()
    if pointer is None:
        return None
    verdicts = {name: store.verdict(name) for name in store.verdict_ids()}
    follow_ups, audit = store.notes("followups"), store.audit()
    return {
        "champion": {**_snapshot(store, pointer.digest), "is_baseline": pointer.digest == pointer.baseline},
        "baseline": pointer.baseline,
        "moves": pointer.generation,
        "since_us": _since_us(audit, pointer),
        "verdict": pointer.verdict,
        "kill_switch": store.kill_switch,
        "staged": {**_snapshot(store, pointer.challenger), "share": pointer.share} if pointer.challenger else None,
        "waiting": [{**_snapshot(store, item.digest), "published_us": item.published_us} for item in store.challengers()],
        "rollback": _rollback(store, pointer, root=root, task=task),
        "verdicts": [_verdict(name, verdicts[name], follow_ups.get(name)) for name in reversed(verdicts)][:_SHOWN],
        "verdict_counts": _counts(verdicts),
        "history": [_move(entry) for entry in reversed(audit) if entry.get("action") in _MOVES][:_SHOWN],
        "promoted_us": [entry["time_us"] for entry in audit if entry.get("action") == "promote" and "time_us" in entry],
    }


def _snapshot(store: Store, digest: str) -> dict[str, Any]:
    """A snapshot in brief; one that cannot be read is named, and no more."""
    try:
        manifest = store.manifest(digest)
    except (BanditsError, OSError):
        return {"digest": digest, "policy": "?", "kind": "", "label": "", "rows": 0}
    return {"digest": digest, "policy": manifest.policy, "kind": manifest.kind, "label": manifest.label, "rows": manifest.rows}


def _since_us(audit: Sequence[Mapping[str, Any]], pointer: Pointer) -> int:
    """When the champion took its place, microseconds since the epoch: steps of a challenger beside it changed nothing for it."""
    since_us = pointer.moved_us
    for entry in reversed(audit):
        if entry.get("action") not in _MOVES or "digest" not in entry:
            continue
        if entry["digest"] != pointer.digest:
            break
        since_us = int(entry["time_us"])
    return since_us


def _rollback(store: Store, pointer: Pointer, *, root: Path, task: str) -> dict[str, Any]:
    """The command that undoes the latest step, and what it does; no command where there is nothing to undo."""
    command = shlex.join(["ope", "rollback", "--task", task, "--store", str(root), "--reason", "WHY"])
    if pointer.challenger:
        return {
            "command": command,
            "does": f"Ends the staged promotion: the champion decides for everyone again, not for {pointer.share:.0%}.",
        }
    if not pointer.previous:
        return {"command": None, "does": "There is nothing to go back to: this is the task's first champion."}
    before = _snapshot(store, pointer.previous)
    return {"command": command, "does": f"Brings back {before['policy']} {pointer.previous[:12]}; servers follow at their next look."}


def _verdict(name: str, verdict: Mapping[str, Any], follow_up: Mapping[str, Any] | None) -> dict[str, Any]:
    deciding = (verdict.get("estimates") or {}).get(verdict.get("estimator"), {})
    return {
        "id": name,
        "decision": verdict.get("decision", "?"),
        "digest": verdict.get("challenger", ""),
        "champion": verdict.get("champion", ""),
        "kind": verdict.get("kind", ""),
        "label": verdict.get("label", ""),
        "reasons": list(verdict.get("reasons", ())),
        "rows": verdict.get("rows"),
        "decided_us": verdict.get("decided_us"),
        "metric": verdict.get("metric", "reward"),
        "margin": verdict.get("margin"),
        "direction": verdict.get("direction", "higher"),
        "next_share": verdict.get("next_share", 1.0),
        "difference": _interval(deciding.get("difference")),
        "challenger": _interval(deciding.get("challenger")),
        "came": {"said": follow_up["said"], "wrong": follow_up["wrong"], "realised": follow_up["realised"]} if follow_up else None,
    }


def _interval(estimate: Mapping[str, Any] | None) -> list[float | None] | None:
    """[value, lower, upper]; None where the verdict shows none."""
    if not estimate or estimate.get("value") is None:
        return None
    return [estimate.get(key) for key in ("value", "lower", "upper")]


def _counts(verdicts: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    said = [verdict.get("decision") for verdict in verdicts.values()]
    return {decision: said.count(decision) for decision in ("promote", "hold", "veto")}


def _move(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("action", "time_us", "digest", "actor", "reason", "quoted", "share", "challenger")
    return {key: entry.get(key) for key in kept}
