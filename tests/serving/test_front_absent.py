"""Where the native front end is not installed: everything else works, and who asks for it is told what to do."""

import sys
from pathlib import Path

import pytest

from protos.task import load_tasks
from serving.config import ServerConfig
from serving.errors import ServingError
from serving.server import Server


def test_without_the_front_who_asks_for_it_is_told_the_remedy(tmp_path: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slateloop_front", None)
    config = ServerConfig(address="127.0.0.1:0", front="native")
    with pytest.raises(ServingError, match=r"pip install 'slateloop\[front\]'.*--front grpcio"):
        Server(config, tasks=load_tasks(tasks), store=tmp_path / "store", logs=tmp_path / "logs")
