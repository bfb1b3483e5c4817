"""The state that a learner starts from: the prior, with a baseline that stands still read from the store. Touches the store."""

import json
from typing import Any

from bandits.catalog import build, parsed
from bandits.config import TaskPolicy
from bandits.errors import PolicyError
from bandits.policies.constrained import ConstrainedSettings, ConstrainedState
from bandits.snapshots import Manifest
from bandits.store import Store

__all__ = ["starting_state"]


def starting_state(store: Store, task: TaskPolicy) -> Any:
    """The prior of a task's policy; the snapshot that its settings name as baseline, if they do, is in it, and so in all its snapshots.

    Raises PolicyError where the snapshot is of another policy or table, SnapshotError or UnknownSnapshot where it cannot be read.
    """
    state = build(task.spec).init()
    settings = parsed(task.spec.name, json.loads(task.spec.settings))
    if not isinstance(settings, ConstrainedSettings) or not settings.baseline.snapshot:
        return state
    digest = settings.baseline.snapshot
    if not isinstance(state, ConstrainedState):
        raise PolicyError(
            f"policy.settings.baseline.snapshot: {digest[:12]} stands still, which wrappers that weigh or split the state cannot keep; "
            "drop them, or let the baseline's policy learn along"
        )
    snapshot = store.read(digest)
    _require_same(task, settings, snapshot.manifest)
    return state._replace(baseline=snapshot.state)


def _require_same(task: TaskPolicy, settings: ConstrainedSettings, manifest: Manifest) -> None:
    where, digest = "policy.settings.baseline", settings.baseline.snapshot[:12]
    if manifest.policy != settings.baseline.policy or json.loads(manifest.settings) != settings.baseline.settings:
        raise PolicyError(
            f"{where}: {settings.baseline.policy} {settings.baseline.settings} is declared, snapshot {digest} is {manifest.policy} "
            f"{manifest.settings}; name its policy and settings"
        )
    if manifest.actions != task.schema.actions or manifest.schema_digest != task.schema.digest or json.loads(manifest.wrappers):
        raise PolicyError(
            f"{where}.snapshot: {digest} has other features, actions or wrappers than this task's policy; publish a plain one"
        )
