"""Open-loop load: calls leave at the times of a Poisson process whatever the server does, and latency counts from the intended time."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from plain_http2 import Connections

__all__ = ["OpenLoad", "open_loop"]

_CONNECTIONS, _WARMING = 8, 32


class OpenLoad(NamedTuple):
    """Latencies from the intended send time, milliseconds, of the calls that were answered; calls, and failed ones by status."""

    p50_ms: float
    p99_ms: float
    calls: int
    codes: dict[str, int]

    @property
    def failed(self) -> int:
        """Calls without an answer."""
        return sum(self.codes.values())


def open_loop(address: str, method: str, body: bytes, *, rate: float, seconds: float, core: int) -> OpenLoad:
    """Runs this file on a core of its own."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = ["taskset", "-c", str(core), sys.executable, __file__, address, method, file.name, str(rate), str(seconds)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return OpenLoad(**json.loads(ended.stdout))


def _run(address: str, method: str, body: bytes, rate: float, seconds: float) -> OpenLoad:
    times = np.cumsum(np.random.default_rng(0).exponential(1.0 / rate, int(rate * seconds)))
    connections = Connections(address, method, body, count=_CONNECTIONS)
    for _ in range(_WARMING):
        connections.send(0.0)
    connections.finish(timeout_s=60.0)
    connections.ended.clear()
    begun_s = time.perf_counter()
    for due_s in (begun_s + times).tolist():
        connections.wait_until(due_s)
        connections.send(due_s)
    connections.finish(timeout_s=60.0)
    latencies = [call.latency_s for call in connections.ended if call.status == "OK"]
    codes = Counter(call.status for call in connections.ended if call.status != "OK")
    codes["UNANSWERED"] += len(times) - len(connections.ended)
    p50, p99 = np.percentile(latencies or [np.nan], [50, 99]) * 1e3
    return OpenLoad(float(p50), float(p99), len(times), dict(+codes))


def main() -> None:
    """One run; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("address", "method", "body", "rate", "seconds"):
        parser.add_argument(name)
    given = parser.parse_args()
    found = _run(given.address, given.method, Path(given.body).read_bytes(), float(given.rate), float(given.seconds))
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()
