"""Documents that cannot rot: the README's code runs, every command has help and is documented."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import attribution.__main__
import bandits.__main__
import ope.__main__
import serving.__main__

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
APPS = {
    "serving": serving.__main__.app,
    "attribution": attribution.__main__.app,
    "bandits": bandits.__main__.app,
    "ope": ope.__main__.app,
}
COMMANDS = [(room, name, command) for room, app in APPS.items() for name, command in typer.main.get_command(app).commands.items()]
IDS = [f"{room} {name}" for room, name, _ in COMMANDS]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_first_runnable_line_comes_before_line_30() -> None:
    lines = README.splitlines()
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("```")) < 30
    assert "make demo" in README and "make test" in README


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0][:40])
def test_the_python_of_the_readme_runs(code: str) -> None:
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


def console_blocks() -> list[tuple[str, str]]:
    """(command, output that the README shows) of each `console` block with a command of ours."""
    found = []
    for block in blocks("console"):
        prompt, _, output = block.partition("\n")
        if prompt.startswith("$ ") and prompt.split()[1] in APPS:
            found.append((prompt[2:], output))
    return found


@pytest.mark.parametrize(("command", "output"), console_blocks(), ids=lambda value: value[:40])
def test_the_commands_of_the_readme_print_what_it_shows(command: str, output: str) -> None:
    room, *arguments = shlex.split(command)
    ended = subprocess.run(
        [sys.executable, "-m", room, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, env={"COLUMNS": "140"}, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == output.split()


@pytest.mark.parametrize(("room", "name", "command"), COMMANDS, ids=IDS)
def test_every_command_has_help_and_is_in_the_readme(room: str, name: str, command: Any) -> None:
    assert command.help, f"{room} {name} says nothing of itself"
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    assert not [option.name for option in options if not option.help]
    assert f"`{room} {name}" in README


def test_every_task_file_in_configs_is_read_by_every_room() -> None:
    from protos.task import SECTIONS, load_tasks

    tasks = load_tasks(ROOT / "configs" / "tasks")
    assert set(tasks) and all(set(task.sections) <= set(SECTIONS) for task in tasks.values())
