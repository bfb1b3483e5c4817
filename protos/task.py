"""The file of a task, and the list of its sections. Each section is parsed by the room that owns it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protos import config
from protos.errors import ConfigError

__all__ = ["DEFAULT_TENANT", "SECTIONS", "TaskFile", "load_task", "load_tasks"]

# Section -> the room that documents and validates it.
SECTIONS: Mapping[str, str] = {
    "features": "bandits",
    "policy": "bandits",
    "rewards": "attribution",
    "attribution": "attribution",
    "gate": "ope",
    "traffic": "serving",
    "limits": "serving",
}
DEFAULT_TENANT = "default"
_OWN_KEYS = ("task", "tenant")
_NAME_BYTES = 128


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """One task's config as read: its name, its tenant, and the raw sections."""

    name: str
    tenant: str
    sections: Mapping[str, Any]
    digest: str

    def section(self, name: str) -> Any:
        """The raw content of a section; an absent one is empty."""
        if name not in SECTIONS:
            raise KeyError(name)
        content = self.sections.get(name)
        return {} if content is None else content


def load_task(path: Path, *, overrides: Sequence[str] = ()) -> TaskFile:
    """Reads a task's YAML with `section.key=value` flags laid over it.

    Raises ConfigError for a misspelt section (with the nearest name), a missing or ill-formed task name.
    """
    data = config.apply_overrides(_plain(config.load_yaml(path), path), overrides)
    for key in data:
        if key not in SECTIONS and key not in _OWN_KEYS:
            raise ConfigError(f"{path}: {key}: unknown section; {config.nearest(key, [*SECTIONS, *_OWN_KEYS])}")
    name, tenant = data.get("task"), data.get("tenant", DEFAULT_TENANT)
    for key, value in (("task", name), ("tenant", tenant)):
        if not isinstance(value, str) or not 1 <= len(value.encode()) <= _NAME_BYTES:
            raise ConfigError(f"{path}: {key}: {value!r} is refused; give a name of 1 to {_NAME_BYTES} bytes")
    assert isinstance(name, str)
    sections = {key: value for key, value in data.items() if key in SECTIONS}
    return TaskFile(name=name, tenant=tenant, sections=sections, digest=config.digest(data))


def load_tasks(directory: Path, *, overrides: Sequence[str] = ()) -> dict[str, TaskFile]:
    """Every task of a directory by name, each with `overrides` laid over it; two files with the same task are refused."""
    paths = sorted(directory.glob("*.yaml"))
    if not paths:
        raise ConfigError(f"{directory}: holds no task (*.yaml); copy configs/tasks/digits.yaml there and change it")
    tasks: dict[str, TaskFile] = {}
    for path in paths:
        task = load_task(path, overrides=overrides)
        if task.name in tasks:
            raise ConfigError(f"{path}: task: {task.name!r} is already defined by another file of {directory}; rename one")
        tasks[task.name] = task
    return tasks


def _plain(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The data, if JSON can hold it: dates and non-text keys have no canonical form and so no digest."""
    try:
        config.digest(data)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; quote dates, and use finite numbers and text keys") from error
    return data
