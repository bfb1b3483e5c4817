"""Open-loop load: calls leave at the times of a Poisson process whatever the server does, and latency counts from the intended time."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import grpc.aio
import numpy as np

__all__ = ["OpenLoad", "open_loop"]


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


async def _run(address: str, method: str, body: bytes, rate: float, seconds: float) -> OpenLoad:
    times = np.cumsum(np.random.default_rng(0).exponential(1.0 / rate, int(rate * seconds)))
    channels = [grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    calls = [channel.unary_unary(method) for channel in channels]
    await asyncio.gather(*(call(body) for call in calls for _ in range(8)), return_exceptions=True)
    latencies: list[float] = []
    codes: Counter[str] = Counter()

    async def one(index: int, due_s: float) -> None:
        try:
            await calls[index % len(calls)](body)
            latencies.append(time.perf_counter() - due_s)
        except grpc.aio.AioRpcError as error:
            codes[error.code().name] += 1

    waiting, begun_s = [], time.perf_counter()
    for index, at_s in enumerate(times.tolist()):
        if (left_s := begun_s + at_s - time.perf_counter()) > 0:
            await asyncio.sleep(left_s)
        waiting.append(asyncio.create_task(one(index, begun_s + at_s)))
    await asyncio.gather(*waiting)
    p50, p99 = np.percentile(latencies or [np.nan], [50, 99]) * 1e3
    return OpenLoad(float(p50), float(p99), len(times), dict(codes))


def main() -> None:
    """One run; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("address", "method", "body", "rate", "seconds"):
        parser.add_argument(name)
    given = parser.parse_args()
    found = asyncio.run(_run(given.address, given.method, Path(given.body).read_bytes(), float(given.rate), float(given.seconds)))
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()
