"""A task begins with a first champion: uniform over the eligible candidates."""

from bandits.catalog import build
from bandits.config import TaskPolicy
from bandits.errors import ChampionMoved
from bandits.snapshots import Draft
from bandits.store import Pointer, Store

__all__ = ["ensure_champion"]


def ensure_champion(store: Store, task: TaskPolicy, *, now_us: int, actor: str = "bandits") -> Pointer:
    """The task's champion; where it has none yet, its baseline is published and begins."""
    standing = store.champion()
    if standing is not None:
        return standing
    digest = store.publish(_baseline(task, now_us))
    try:
        return store.begin(digest, now_us=now_us, actor=actor)
    except ChampionMoved:
        # Another process began the task in between: its champion stands.
        pointer = store.champion()
        assert pointer is not None
        return pointer


def _baseline(task: TaskPolicy, now_us: int) -> Draft:
    return Draft(
        spec=task.baseline,
        state=build(task.baseline).init(),
        manifest={
            "tenant": task.tenant,
            "task": task.name,
            "actions": task.schema.actions,
            "schema_digest": task.schema.digest,
            "config_digest": task.config_digest,
            "kind": "first",
            "created_us": now_us,
        },
    )
