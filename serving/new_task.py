"""`serving new`: the file of a task that is valid as it stands, with a comment at every choice. Touches the file system."""

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bandits.errors import BanditsError
from bandits.first import ensure_champion
from bandits.store import Store
from protos.command import refusing
from protos.errors import ConfigError, ProtosError
from protos.task import load_task, load_tasks
from serving.errors import ServingError
from serving.fields import ID_BYTES, shown
from serving.tasks import parse_rules

__all__ = ["new", "task_text"]

# A name that is a folder of the store, a file, and no option of a command.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
_TEMPLATE = Path(__file__).with_name("new_task.yaml")
_ACTIONS = ("first", "second", "third")
# Candidates that a request may name at least: the narrowest shape that is compiled.
_FEW = 8


@refusing(ServingError, BanditsError, ProtosError)
def new(
    task: Annotated[str, typer.Argument(help="Name of the task: letters, digits, '-' and '_'.")],
    tasks: Annotated[Path, typer.Option("--tasks", help="Directory of task files, where it is written.")] = Path("configs/tasks"),
    actions: Annotated[str, typer.Option("--actions", help="What can be shown: ids, with commas between.")] = ",".join(_ACTIONS),
    publish: Annotated[bool, typer.Option("--publish", help="Give it its first champion too: uniform over the actions.")] = False,
    store: Annotated[Path, typer.Option("--store", help="With --publish: directory of the policy store.")] = Path("var/store"),
) -> None:
    """Write the file of a new task, valid and annotated; `serving serve` serves it as it is, with every action equally likely."""
    path = _written(task, tasks, actions=[action.strip() for action in actions.split(",")])
    print(f"wrote {path}")
    if publish:
        policy = parse_rules(load_task(path)).policy
        pointer = ensure_champion(Store(store, task), policy, now_us=time.time_ns() // 1000, actor="serving new")
        print(f"first champion: {policy.baseline.name} {pointer.digest[:12]} in {store}")
    print(
        f"next:\n"
        f"  serving serve --tasks {tasks} --store {store} --logs var/logs\n"
        f'  serving select {task} --unit visitor-1 --context \'{{"hour": 9, "device": "phone"}}\'\n'
        f"what to change in the file, and what comes then: serving/FIRST_TASK.md"
    )


def task_text(task: str, *, actions: Sequence[str]) -> str:
    """The text of a task's file."""
    listed = ", ".join(json.dumps(action, ensure_ascii=False) for action in actions)
    text = _TEMPLATE.read_text(encoding="utf-8").replace("{task}", json.dumps(task)).replace("{actions}", listed)
    return text.replace("{candidates}", str(max(len(actions), _FEW)))


def _written(task: str, tasks: Path, *, actions: Sequence[str]) -> Path:
    """Writes the file, and takes it back if it does not hold. Raises ConfigError, or BanditsError for actions that cannot be."""
    _check_name(task)
    _check_actions(actions)
    if not tasks.is_dir():
        raise ConfigError(f"--tasks: {tasks} is no directory; make it (mkdir -p {tasks}), or name the one that `serving serve` reads")
    path = tasks / f"{task}.yaml"
    if task in (load_tasks(tasks) if any(tasks.glob("*.yaml")) else {}) or path.exists():
        raise ConfigError(f"TASK: {task!r} exists already in {tasks}; give another name, or edit its file")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(task_text(task, actions=actions))
    except OSError as error:
        raise ConfigError(f"--tasks: {path} cannot be written ({error.strerror}); give a directory that you may write to") from error
    try:
        parse_rules(load_task(path))
    except (ProtosError, BanditsError):
        path.unlink()
        raise
    return path


def _check_name(task: str) -> None:
    if not _NAME.fullmatch(task):
        near = re.sub(r"[^A-Za-z0-9_-]+", "_", task).strip("_-")[:128] or "my_task"
        raise ConfigError(f"TASK: {shown(task)} is no name for a task; use letters, digits, '-' and '_', at most 128: say {near!r}")


def _check_actions(actions: Sequence[str]) -> None:
    for action in actions:
        if not 1 <= len(action.encode()) <= ID_BYTES or actions.count(action) > 1:
            fault = "stands twice" if actions.count(action) > 1 else f"has {len(action.encode())} bytes"
            raise ConfigError(f"--actions: {shown(action)} {fault}; give different ids of 1 to {ID_BYTES} bytes, say news,sports,music")
