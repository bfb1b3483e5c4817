"""A small task, its store, and servers that run in this process."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bandits.config import TaskPolicy, parse_task
from bandits.first import ensure_champion
from bandits.store import Store
from protos.task import load_task
from serving.client import PolicyClient
from serving.server import Server
from tests.serving.kit import FRONTS, RANKED, TASK, serving_from, written


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of task files."""
    return written(tmp_path_factory.mktemp("tasks"), TASK, RANKED)


@pytest.fixture
def shop(tasks: Path) -> TaskPolicy:
    return parse_task(load_task(tasks / "shop.yaml"))


@pytest.fixture
def store(tmp_path: Path, shop: TaskPolicy) -> Store:
    """The store of the task `shop`, begun."""
    found = Store(tmp_path / "store", "shop")
    ensure_champion(found, shop, now_us=1, actor="test")
    return found


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    """What takes the calls."""
    return str(request.param)


@pytest.fixture
def start_server(tmp_path: Path, tasks: Path, store: Store, front: str) -> Iterator[Callable[..., Server]]:
    """Starts servers of this process; whatever is still up at the end is drained."""
    with contextlib.ExitStack() as running:
        yield lambda **settings: running.enter_context(serving_from(tmp_path, tasks, front=front, **settings))


@pytest.fixture
def client(start_server: Callable[..., Server]) -> Iterator[PolicyClient]:
    """A client of a running server."""
    with PolicyClient(start_server().address) as connected:
        yield connected


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xla")
