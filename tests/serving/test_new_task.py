"""`serving new`: what it writes is valid at once and served at once, its mistakes are said with the remedy, and its page is true."""

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attribution.settings import load_join_config
from bandits.store import Store
from ope.gate.config import gate_config
from protos.task import load_task
from serving.client import PolicyClient
from serving.commands import app
from serving.new_task import task_text
from serving.tasks import parse_rules
from tests.serving.kit import ROOT, serving_from
from tests.serving.test_clients import free_address
from tests.serving.test_front_clients import TOOLS, tool

FIRST_TASK, CLIENTS = (ROOT / "serving" / name for name in ("FIRST_TASK.md", "CLIENTS.md"))
GRPCURL = TOOLS / "bin" / "grpcurl"


def new(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["new", *[str(argument) for argument in arguments]])


def test_the_file_is_valid_in_every_room_and_every_choice_has_a_comment(tmp_path: Path) -> None:
    ended = new("homepage", "--tasks", tmp_path, "--actions", "news, sports,music")
    assert ended.exit_code == 0 and "serving select homepage" in ended.stdout
    task = load_task(tmp_path / "homepage.yaml")
    rules = parse_rules(task)
    assert rules.policy.schema.actions == ("news", "sports", "music") and rules.policy.baseline.name == "uniform"
    assert gate_config(task).min_rows == 1_000 and ("default", "homepage") in load_join_config(tmp_path).tasks
    lines = [line.strip() for line in (tmp_path / "homepage.yaml").read_text().splitlines()]
    choices = [at for at, line in enumerate(lines) if re.match(r"(- \{|[\w-]+:).*\S", line) and not line.endswith(":")]
    # The second of two that belong together has its comment above the first.
    assert len(choices) >= 14 and all(any(line.startswith("#") for line in lines[max(at - 3, 0) : at]) for at in choices)


def test_a_hundred_actions_may_all_be_candidates(tmp_path: Path) -> None:
    assert new("x", "--tasks", tmp_path, "--actions", ",".join(map(str, range(100)))).exit_code == 0
    assert parse_rules(load_task(tmp_path / "x.yaml")).limits.max_candidates == 100


@pytest.mark.parametrize("name", ["on", "1", "null", "a-b_C9"])
def test_a_name_that_yaml_would_read_otherwise_stays_a_name(name: str, tmp_path: Path) -> None:
    assert new(name, "--tasks", tmp_path, "--actions", "yes,1.5,null").exit_code == 0
    task = load_task(tmp_path / f"{name}.yaml")
    assert task.name == name and parse_rules(task).policy.schema.actions == ("yes", "1.5", "null")


@pytest.mark.slow
def test_it_is_served_at_once_by_a_champion_that_thinks_all_actions_equal(tmp_path: Path, front: str) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    ended = new("homepage", "--tasks", tasks, "--publish", "--store", tmp_path / "store")
    champion = Store(tmp_path / "store", "homepage").champion()
    assert ended.exit_code == 0 and champion is not None and f"uniform {champion.digest[:12]}" in ended.stdout
    with serving_from(tmp_path, tasks, front=front) as server, PolicyClient(server.address) as client:
        decision = client.decide("homepage", unit_id="u", context={"hour": 9, "device": "phone"})
        assert decision.propensity == pytest.approx(1 / 3, abs=1e-9) and decision.response.snapshot_digest == champion.digest
        assert client.observe(decision, 1.0)


MISTAKES = {
    "bad name": (("home page",), "TASK: 'home page' is no name for a task", "say 'home_page'"),
    "name that is an option": (("--", "-x"), "TASK: '-x' is no name for a task", "say 'x'"),
    "name of another folder": (("../x",), "TASK: '../x' is no name for a task", "say 'x'"),
    "exists already": (("standing",), "TASK: 'standing' exists already in", "give another name, or edit its file"),
    "defined in another file": (("elsewhere",), "TASK: 'elsewhere' exists already in", "give another name"),
    "action twice": (("x", "--actions", "a,b,a"), "--actions: 'a' stands twice", "give different ids"),
    "no action": (("x", "--actions", ""), "--actions: '' has 0 bytes", "1 to 128 bytes"),
    "too long an action": (("x", "--actions", "a" * 129), "has 129 bytes", "1 to 128 bytes"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_with_field_value_and_remedy_and_writes_nothing(name: str, tmp_path: Path) -> None:
    arguments, fault, remedy = MISTAKES[name]
    (tmp_path / "standing.yaml").write_text(task_text("standing", actions=["a"]))
    (tmp_path / "other.yaml").write_text(task_text("elsewhere", actions=["a"]))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    ended = new("--tasks", tmp_path, *arguments)
    assert ended.exit_code == 2 and fault in ended.stderr and remedy in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_there_or_not_ones_own_is_said(tmp_path: Path) -> None:
    nowhere = new("x", "--tasks", tmp_path / "nowhere")
    assert nowhere.exit_code == 2 and "nowhere is no directory; make it (mkdir -p" in nowhere.stderr
    # For the administrator too: a folder of the system that takes no file.
    refused = new("x", "--tasks", "/proc/self")
    assert refused.exit_code == 2 and "--tasks: /proc/self/x.yaml cannot be written" in refused.stderr
    assert "give a directory that you may write to" in refused.stderr


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(language, code) of the page's blocks, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in found if language in languages]


# What a reader leaves running in another window.
STAYS = ("serving serve", "attribution run", "serving dashboard", "bandits learn", "ope gate --watch")


class Reader:
    """Does what a page says, in a folder of its own: what stays is left running, everything else must end well."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self._address = folder, address
        self.left: list[tuple[str, subprocess.Popen[str]]] = []
        self._environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{GRPCURL.parent}:{os.environ['PATH']}", "COLUMNS": "200"}
        self._environment["PYTHONPATH"] = str(ROOT)

    def do(self, language: str, code: str) -> str:
        """One block; what it printed."""
        code = code.replace("127.0.0.1:50051", self._address).replace("serving select", f"serving select --address {self._address}")
        if language == "python":
            return self._ended([sys.executable, "-W", "error", "-c", code])
        if language == "console":
            return self._compared(code)
        staying = [line for line in code.splitlines() if line.startswith(STAYS)]
        for line in staying:
            self._leave(line)
        rest = "\n".join(line for line in code.splitlines() if line not in staying)
        return self._ended(["bash", "-euo", "pipefail", "-c", rest]) if rest.strip() else ""

    def _leave(self, line: str) -> None:
        port = ["--address", "127.0.0.1:0"] if "dashboard" in line else ["--reflection"] if line.startswith("serving serve") else []
        command = [*shlex.split(line), *port]
        process = subprocess.Popen(command, cwd=self.folder, env=self._environment, stdout=subprocess.PIPE, text=True)
        self.left.append((line, process))
        if line.startswith("serving"):
            assert process.stdout is not None and ": " in process.stdout.readline(), line

    def _ended(self, command: list[str]) -> str:
        ended = subprocess.run(command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, (command[-1], ended.stdout, ended.stderr)
        return ended.stdout

    def _compared(self, code: str) -> str:
        shown = [line.removeprefix("$ ") if line.startswith("$ ") else line for line in code.splitlines()]
        said = ""
        for place, line in enumerate(code.splitlines()):
            if line.startswith("$ "):
                ended = subprocess.run(
                    shlex.split(shown[place]), cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
                )
                assert (ended.stdout + ended.stderr).strip() == shown[place + 1]
                said += ended.stderr
        return said


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """A reader who ends what was left running, in the end, and finds that it ran until then."""
    found = Reader(folder, free_address())
    try:
        yield found
        assert all(process.poll() is None for _, process in found.left), [
            line for line, process in found.left if process.poll() is not None
        ]
    finally:
        for _, process in reversed(found.left):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@pytest.mark.slow
def test_the_page_leads_from_nothing_to_a_loop_that_runs(tmp_path: Path) -> None:
    with reader(tmp_path) as reading:
        said = [reading.do(language, code) for language, code in blocks(FIRST_TASK, "sh", "python", "console")]
        assert [line.split(" --")[0] for line, _ in reading.left] == [
            "serving serve",
            "attribution run",
            "serving dashboard",
            "bandits learn",
            "ope gate",
        ]
    text = "\n".join(said)
    assert "propensity 0.333333" in text and "wrote tasks/homepage.yaml" in text and re.search(r"replay_draws +1\.0", text)


@pytest.fixture
def clients_reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader of CLIENTS.md, with the server that it asks."""
    (tmp_path / "tasks").mkdir()
    assert new("homepage", "--tasks", tmp_path / "tasks", "--actions", "news,sports,music").exit_code == 0
    with reader(tmp_path) as reading:
        reading.do("sh", "serving serve --tasks tasks --store store --logs logs --address 127.0.0.1:50051")
        yield reading


@pytest.mark.slow
def test_the_python_of_the_page_of_the_clients_runs(clients_reader: Reader) -> None:
    said = [clients_reader.do(language, code) for language, code in blocks(CLIENTS, "python")]
    assert len(said) == 2 and "Counts(fallbacks=0, waiting=0, delivered=0, dropped=0, refused=0)" in said[1]


@pytest.mark.slow
def test_the_grpcurl_of_the_page_of_the_clients_runs(clients_reader: Reader) -> None:
    if shutil.which("grpcurl") is None:
        tool(f"github.com/fullstorydev/grpcurl/cmd/{GRPCURL.name}@latest")
    # One script, as one would type it: the shell keeps what it was told.
    said = clients_reader.do("sh", "{ " + "\n".join(code for _, code in blocks(CLIENTS, "sh")) + "\n} 2>&1")
    for word in ("slateloop.v1.PolicyService", "message SelectRequest", '"logged": true', '"accepted": 2', "did you mean `homepage`"):
        assert word in said
    assert '"SERVING"' in said


def test_the_pages_are_linked_from_the_readme_and_their_template_travels_with_the_package() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(serving/FIRST_TASK.md)" in readme and "(serving/CLIENTS.md)" in readme
    assert '"new_task.yaml"' in (ROOT / "pyproject.toml").read_text()
    assert stat.S_IMODE((ROOT / "serving" / "new_task.yaml").stat().st_mode) & stat.S_IRUSR
