"""Several processes behind one port: starts them, starts one anew that ends, ships their logs, and takes them down together.

Each worker is `serving serve` with the same flags; the kernel shares connections out among them (SO_REUSEPORT), and they write one
decision log and one feedback log in turn (`turns`), so readers and replay know nothing of them. A retry that reaches another worker is
the same decision: its id, its key and its slate follow from the request id.
"""

import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from protos.log_files import DECISIONS, FEEDBACK, SHADOWS
from serving.config import ServerConfig
from serving.decision_log import LogWriter, stamp_decision, take_over
from serving.errors import ServingError
from serving.heartbeats import heartbeat_event
from serving.shipping import Shipper, kafka_producer
from serving.turns import InTurn, held

__all__ = ["Workers", "ends_with_its_parent"]

_logger = logging.getLogger(__name__)
# A worker that ends is started again after so long, twice as long each time until it lives.
_FIRST_WAIT_S, _MOST_WAIT_S = 0.2, 30.0
_LOOK_S = 0.1
# Beyond the grace for running calls: closing logs and the interpreter's own end.
_END_S = 10.0


class Workers:
    """The workers of one server; `command` starts one, given further flags."""

    def __init__(self, config: ServerConfig, *, logs: Path, command: Sequence[str], now_us: Callable[[], int]) -> None:
        """Takes the logs over and reserves the address. Raises LogBusy, LogUnavailable, and ServingError where the address is taken."""
        self._config, self._logs, self._command, self._now_us = config, logs, command, now_us
        with contextlib.ExitStack() as taken:
            for name in (DECISIONS, FEEDBACK):
                taken.callback(os.close, held(logs / name, ".workers", fcntl.LOCK_EX))
            self._reserved = taken.enter_context(_reserved(config.address))
            self._folder = Path(taken.enter_context(tempfile.TemporaryDirectory(prefix="serving-workers-")))
            self._taken = taken.pop_all()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._failed: dict[int, int] = {}
        self._due_s: dict[int, float] = {}
        self._shippers = [self._shipper(logs / name) for name in (DECISIONS, FEEDBACK) if config.bootstrap]

    @property
    def address(self) -> str:
        """Where they listen, with the port that was found."""
        return f"{self._config.address.rpartition(':')[0]}:{self._reserved.getsockname()[1]}"

    def start(self, stop: threading.Event) -> None:
        """Returns when every worker answers, or `stop` is set. Raises ServingError if one ends instead."""
        for name in (DECISIONS, FEEDBACK, *([SHADOWS] if (self._logs / SHADOWS).is_dir() else [])):
            with contextlib.closing(InTurn(self._logs / name)) as turns:
                take_over(self._logs / name, turns)
        for shipper in self._shippers:
            shipper.start()
        # The first compiles, the others load what it has compiled.
        for group in ([0], list(range(1, self._config.workers))):
            for number in group:
                self._launch(number)
            while not all(self._ready(number) for number in group) and not stop.wait(_LOOK_S):
                self._refuse_ended(group)

    def watch(self, stop: threading.Event) -> None:
        """Starts workers that end again, until `stop` is set."""
        while not stop.wait(_LOOK_S):
            for number in range(self._config.workers):
                self._look_after(number)

    def close(self) -> None:
        """Lets running calls finish, then says what is to be said and ships what is left."""
        for process in self._running.values():
            process.terminate()
        until_s = time.monotonic() + self._config.drain_grace_s + _END_S
        for process in self._running.values():
            try:
                process.wait(max(until_s - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._config.final_heartbeat:
            self._say_final()
        for shipper in self._shippers:
            shipper.close(timeout_s=self._config.drain_grace_s)
        self._taken.close()

    def _say_final(self) -> None:
        sizes: dict[str, Any] = {"segment_bytes": self._config.segment_bytes, "sync_s": self._config.sync_ms / 1e3}
        with contextlib.suppress(ServingError):
            log = LogWriter(self._logs / DECISIONS, stamp=stamp_decision, now_us=self._now_us, turns=InTurn, **sizes)
            with contextlib.closing(log):
                log.append([heartbeat_event(final=True)])

    def _launch(self, number: int) -> None:
        self._file(number).unlink(missing_ok=True)
        # One of them takes the operators' calls; the others see what was moved at their next look.
        admin = self._config.admin_address if number == 0 else ""
        given = {
            "address": self.address,
            "admin_address": admin,
            "metrics_address": self._metrics_address(number),
            "workers": "1",
            "final_heartbeat": "false",
        }
        flags = [part for key, value in given.items() for part in ("--set", f"{key}={value or repr('')}")]
        flags += ["--worker", str(number), "--address-file", str(self._file(number))]
        # Their one line on standard output, the address, is for us to say.
        self._running[number] = subprocess.Popen([*self._command, *flags], stdout=subprocess.DEVNULL)
        _logger.info("worker %d: process %d", number, self._running[number].pid)

    def _look_after(self, number: int) -> None:
        if self._running[number].poll() is None:
            if self._failed.get(number) and self._ready(number):
                self._failed[number] = 0
            return
        now_s = time.monotonic()
        if number not in self._due_s:
            failed = self._failed[number] = self._failed.get(number, 0) + 1
            wait_s = min(_FIRST_WAIT_S * 2 ** (failed - 1), _MOST_WAIT_S)
            self._due_s[number] = now_s + wait_s
            _logger.error("worker %d: ended with %d; started again in %.1f s", number, self._running[number].returncode, wait_s)
        elif now_s >= self._due_s[number]:
            del self._due_s[number]
            self._launch(number)

    def _refuse_ended(self, group: Sequence[int]) -> None:
        for number in group:
            code = self._running[number].poll()
            if code is not None:
                raise ServingError(f"workers: worker {number} ended with {code} before it was ready; what it said stands above")

    def _ready(self, number: int) -> bool:
        return self._file(number).exists()

    def _file(self, number: int) -> Path:
        return self._folder / str(number)

    def _metrics_address(self, number: int) -> str:
        """Each worker has its own, counted on from the configured port."""
        host, _, port = self._config.metrics_address.rpartition(":")
        return f"{host}:{int(port) + number if int(port) else 0}" if host else ""

    def _shipper(self, log: Path) -> Shipper:
        config = self._config
        return Shipper(log, producer=lambda: kafka_producer(config.bootstrap, config.kafka), now_us=self._now_us)


def ends_with_its_parent(stop: threading.Event) -> None:
    """Sets `stop` when the process that started this one is gone: workers that nobody watches would hold the port for ever."""
    parent = os.getppid()

    def watch() -> None:
        while not stop.wait(1.0):
            if os.getppid() != parent:
                stop.set()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _reserved(address: str) -> socket.socket:
    """A socket that keeps the port for the workers without listening on it. Raises ServingError if somebody listens there."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Shared from the start, any server that shares its port would be joined; alone, a listener refuses us.
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host.strip("[]"), int(port)))
            found = alone.getsockname()[1]
        shared = socket.socket(family, socket.SOCK_STREAM)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host.strip("[]"), found))
    except OSError as error:
        raise ServingError(f"address: {address!r} cannot be bound; give a free host:port (port 0 takes any)") from error
    return shared
