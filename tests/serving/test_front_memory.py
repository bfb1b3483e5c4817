"""The native front over hundreds of thousands of calls: its memory stays as it was, whatever they were."""

import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bandits.config import TaskPolicy
from protos.policy_pb2 import SelectRequest
from tests.serving.kit import Process, native_only, select_request

pytestmark = [native_only, pytest.mark.slow]
CALLS, SOME_MIB = 150_000, 16
BODIES: dict[str, Callable[[TaskPolicy], bytes]] = {
    "plain": lambda shop: select_request(shop).SerializeToString(),
    "explained": lambda shop: select_request(shop, explain=True).SerializeToString(),
    "refused": lambda shop: SelectRequest(task="shoppe").SerializeToString(),
    "noise": lambda shop: b"\xff" * 200,
}


@pytest.fixture
def process(tmp_path: Path, tasks: Path, compilation_cache: Path) -> Iterator[Process]:
    """A server of the one task `shop`."""
    (tmp_path / "tasks").mkdir()
    shutil.copy(tasks / "shop.yaml", tmp_path / "tasks")
    found = Process(tmp_path, tmp_path / "tasks", compilation_cache, "--front", "native")
    yield found
    if found.lives:
        found.end(signal.SIGTERM)


def resident_mib(process: Process) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load (nghttp2-client) sends the calls, and is not here")
@pytest.mark.parametrize("kind", BODIES)
def test_many_calls_leave_the_memory_as_it_was(kind: str, process: Process, tmp_path: Path, shop: TaskPolicy) -> None:
    address, body = process.start(), BODIES[kind](shop)
    (tmp_path / "body").write_bytes(b"\0" + struct.pack(">I", len(body)) + body)

    def send(calls: int) -> None:
        headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
        url = f"http://{address}/slateloop.v1.PolicyService/Select"
        command = ["h2load", "-t1", "-c4", "-m8", "-n", str(calls), "-d", str(tmp_path / "body"), *headers, url]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
        assert f"{calls} succeeded" in ended.stdout, ended.stdout

    send(20_000)
    held = resident_mib(process)
    send(CALLS if kind == "plain" else CALLS // 10)
    assert resident_mib(process) - held < SOME_MIB
