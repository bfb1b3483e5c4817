"""Puts the parts together behind grpcio's synchronous server, and takes them down in the order that loses nothing."""

import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from bandits.first import ensure_champion
from bandits.store import Store
from protos.events_pb2 import Event
from protos.log_files import DECISIONS, FEEDBACK, SHADOWS
from protos.task import TaskFile
from serving.admin import Admin, admin_methods
from serving.bounds import LogBounds, LogGuard
from serving.call_threads import CallThreads
from serving.calls import CallHandler, Method
from serving.catalogues import CatalogueFile
from serving.config import ServerConfig
from serving.decision_log import LogWriter, Stamp, stamp_append, stamp_decision
from serving.drift import DriftWatch
from serving.engine import Engine
from serving.errors import ServingError
from serving.heartbeats import Heartbeats, heartbeat_event
from serving.idempotency import RequestMemory
from serving.listeners import SERVICE, bind, door_of, grpcio_server, native_server, policy_methods
from serving.log_health import LogHealth
from serving.metrics import Metrics, Watched
from serving.native import front
from serving.planned import Planned, PlannedBatches
from serving.request_ids import RequestIds
from serving.servicer import Servicer
from serving.shipping import Lag, Shipper, kafka_producer, lag_of
from serving.snapshots import SnapshotHolder, SnapshotWatch
from serving.tasks import TaskRules, rules_by_key
from serving.traffic.keeper import keeper_of
from serving.traffic.shadow import Shadows
from serving.traffic.units import UnitTables
from serving.turns import Alone, InTurn, Turns

__all__ = ["ALL_OF_IT", "WORKER", "Part", "Server", "now_us"]

_logger = logging.getLogger(__name__)
# Operators are few.
_ADMIN_THREADS = 4
# A message may take so long to follow its headers, however short the deadlines are.
_MESSAGE_WITHIN_S = 1.0
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Part(NamedTuple):
    """What a process is of a server: whether it `ships` its logs itself, whether it shares its port, and how it comes to its turn in
    the logs."""

    ships: bool
    shares_port: bool
    turns: Callable[[Path], Turns]


ALL_OF_IT = Part(ships=True, shares_port=False, turns=Alone)
# One of several processes; the one that started them ships.
WORKER = Part(ships=False, shares_port=True, turns=InTurn)


class Server:
    """One server process: `start`, then `drain`. Health is asked by task name, by the service's full name, or by "" for all."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        tasks: Mapping[str, TaskFile],
        store: Path,
        logs: Path,
        catalogues: Path | None = None,
        part: Part = ALL_OF_IT,
    ) -> None:
        """Takes over the logs and binds the address; nothing is answered before `start`. `catalogues`: folder of <task>.yaml. `part`: what
        this process is of the server.

        Raises ConfigError, LogBusy, LogUnavailable, and ServingError where the address cannot be bound.
        """
        self._config, self._part, self._door = config, part, door_of(config)
        rules = rules_by_key(tasks)
        self._stores = {key: Store(store, key[1]) for key in rules}
        tables = UnitTables(Path(config.unit_features)) if config.unit_features else None
        self._holders = {
            key: SnapshotHolder(
                self._stores[key],
                rule,
                catalogue=_file(catalogues, rule),
                keeper=keeper_of(self._stores[key], rule, tables=tables),
                now_us=now_us,
            )
            for key, rule in rules.items()
        }
        self._decisions = self._log(logs / DECISIONS, stamp_decision)
        self._feedback = self._log(logs / FEEDBACK, stamp_append)
        self._health = health.HealthServicer()
        self._log_health = {DECISIONS: LogHealth(DECISIONS, self._log_changed), FEEDBACK: LogHealth(FEEDBACK)}
        self.metrics = Metrics(now_us=now_us)
        self._shippers = {name: self._shipper(logs / name) for name in (DECISIONS, FEEDBACK) if config.bootstrap and part.ships}
        self._guards = {name: self._guard(logs / name) for name in (DECISIONS, FEEDBACK)}
        self._metrics_server: Any = None
        #: Where Prometheus may ask, or empty.
        self.metrics_address = ""
        self._ready = self._drained = False
        self._threads: list[SnapshotWatch | Heartbeats | DriftWatch] = []
        self._shadow_log = self._log(logs / SHADOWS, stamp_append) if any(rule.traffic.shadows for rule in rules.values()) else None
        log, cpu_share = self._shadow_log, config.shadow_cpu
        self._shadows = Shadows(log.append_framed, cpu_share=cpu_share) if log is not None else None
        self._drift = self._drift_watch(logs / DECISIONS)
        watched = Watched(list(self._holders.values()), self._lags(logs), self._shippers, self._blocked(), self._drift, self._shadows)
        self.metrics.watch(watched)
        self._grpc = self._grpc_server()
        self.port = bind(self._grpc, config.address, tls=config.tls, key="address")
        self._admin = self._admin_server() if config.admin_address else None
        #: Where the admin service listens, or empty.
        self.admin_address = self._admin_bound()

    @property
    def address(self) -> str:
        """Where the server listens, with the port that it was given."""
        return f"{self._config.address.rpartition(':')[0]}:{self.port}"

    def start(self) -> None:
        """Answers health at once and the rest once every task is warm, which it waits for."""
        self._set_health(_NOT_SERVING)
        self._serve_metrics()
        self._grpc.start()
        if self._admin is not None:
            self._admin.start()
        for shipper in self._shippers.values():
            shipper.start()
        for key, holder in self._holders.items():
            started_s = time.monotonic()
            ensure_champion(self._stores[key], holder.rules.policy, now_us=now_us(), actor="serving")
            holder.refresh_catalogue()
            holder.start()
            _logger.info("task %s: warm after %.1f s, %s decides", key[1], time.monotonic() - started_s, holder.served.deciding.digest)
        self._threads = [
            SnapshotWatch(list(self._holders.values()), poll_s=self._config.poll_s, jitter_s=self._config.reload_jitter_s),
            Heartbeats(self._decisions, append=self._append_heartbeat, every_s=self._config.heartbeat_s, now_us=now_us),
        ]
        if self._drift is not None:
            self._drift.start()
            self._threads.append(self._drift)
        self._ready = True
        self._set_health(_SERVING)

    def drain(self) -> None:
        """Says NOT_SERVING, lets running calls finish, and closes the logs. A second call does nothing."""
        if self._drained:
            return
        self._drained = True
        self._health.enter_graceful_shutdown()
        ended = [server.stop(self._config.drain_grace_s) for server in (self._grpc, self._admin) if server is not None]
        for event in ended:
            event.wait()
        for thread in self._threads:
            thread.close()
        if self._config.final_heartbeat:
            with contextlib.suppress(ServingError):
                self._decisions.append([heartbeat_event(final=True)])
        for shipper in self._shippers.values():
            shipper.close(timeout_s=self._config.drain_grace_s)
        if self._shadows is not None:
            self._shadows.close()
        for log in (self._decisions, self._feedback, self._shadow_log):
            if log is not None:
                log.close()
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()

    def _serve_metrics(self) -> None:
        if not self._config.metrics_address:
            return
        host, _, port = self._config.metrics_address.rpartition(":")
        try:
            self._metrics_server, _ = start_http_server(int(port), addr=host, registry=self.metrics.registry)
        except OSError as error:
            raise ServingError(f"metrics_address: {self._config.metrics_address!r} cannot be bound; give another") from error
        self.metrics_address = f"{host}:{self._metrics_server.server_port}"

    def _shipper(self, log: Path) -> Shipper:
        config = self._config
        return Shipper(log, producer=lambda: kafka_producer(config.bootstrap, config.kafka), now_us=now_us)

    def _guard(self, log: Path) -> LogGuard:
        config = self._config
        bounds = LogBounds(config.log_max_bytes, config.log_max_age_s, config.disk_reserve)
        return LogGuard(log, bounds, lag=lambda: self._lag(log), now_s=time.monotonic)

    def _blocked(self) -> dict[str, Callable[[], bool]]:
        """Whether each log takes nothing: as its bounds last stood, or as its last append ended."""

        def blocked(name: str) -> bool:
            return bool(self._guards[name].reason) or not self._log_health[name].takes

        return {name: functools.partial(blocked, name) for name in (DECISIONS, FEEDBACK)}

    def _lags(self, logs: Path) -> dict[str, Callable[[], Lag]]:
        return {name: functools.partial(self._lag, logs / name) for name in (DECISIONS, FEEDBACK) if self._config.bootstrap}

    def _lag(self, log: Path) -> Lag:
        if not self._config.bootstrap:
            return Lag(0, 0.0)
        return self._shippers[log.name].lag if self._part.ships else lag_of(log, now_us=now_us())

    def _drift_watch(self, log: Path) -> DriftWatch | None:
        every_s = self._config.drift_s
        return None if every_s is None else DriftWatch(log, self._holders, self._stores, every_s=every_s, now_us=now_us)

    def _log(self, path: Path, stamp: Stamp) -> LogWriter:
        config = self._config
        sizes: dict[str, Any] = {"segment_bytes": config.segment_bytes, "sync_s": config.sync_ms / 1e3}
        return LogWriter(path, stamp=stamp, now_us=now_us, turns=self._part.turns, **sizes)

    def _grpc_server(self) -> Any:
        config = self._config
        memory = RequestMemory(entries=config.remembered_requests)
        servicer = self._servicer(memory)
        planned = self._planned(memory) if config.front == "native" else None
        calls = CallHandler(
            policy_methods(servicer, batches=self._batches(planned, servicer)),
            deadline_cap_s=config.deadline_cap_s,
            max_streams=config.max_streams,
            new_error_id=_new_id,
            observer=self.metrics,
            door=self._door,
        )
        # A stream keeps its thread for as long as it lives.
        pool = CallThreads(config.threads + config.max_streams, message_within_s=max(config.deadline_cap_s, _MESSAGE_WITHIN_S))
        if planned is not None:
            server: Any = native_server(calls, pool, config, shares_port=self._part.shares_port, shortcut=planned.answer)
            self.metrics.registry.register(server.stages)
        else:
            server = grpcio_server(calls, pool, config, shares_port=self._part.shares_port)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    def _planned(self, memory: RequestMemory) -> Planned:
        def append_framed(framed: Callable[[int], bytes]) -> None:
            with self._log_health[DECISIONS].watched():
                self._guards[DECISIONS].check()
                self._decisions.append_framed(framed)

        about: dict[str, Any] = {"memory": memory, "observer": self.metrics, "shadows": self._shadows}
        return Planned(front().Planner(), holders=self._holders, append_framed=append_framed, **about)

    def _batches(self, planned: Planned | None, servicer: Servicer) -> Method:
        # What the planner reads has claimed its request ids already: before the door has let it in.
        if planned is None or self._door is not None:
            return Method(servicer.read_batch, servicer.select_batch)

        def answer_some(messages: Sequence[bytes]) -> list[Any]:
            return self._engine.answer([servicer.read(message) for message in messages])

        batches = PlannedBatches(planned, read=servicer.read_batch, answer=servicer.select_batch, answer_some=answer_some)
        return Method(batches.read, batches.answer)

    def _servicer(self, memory: RequestMemory) -> Servicer:
        self._engine = Engine(
            holders=self._holders,
            append=self._append_decisions,
            memory=memory,
            new_request_id=RequestIds(),
            fall_back=self._config.on_log_full == "fallback",
            observer=self.metrics,
            shadows=self._shadows,
        )
        ahead_us = int(self._config.max_future_s * 1e6)
        about: dict[str, Any] = {"now_us": now_us, "latest_us": lambda: now_us() + ahead_us}
        return Servicer(self._engine, append_feedback=self._append_feedback, **about)

    def _append_decisions(self, bodies: Sequence[bytes]) -> None:
        with self._log_health[DECISIONS].watched():
            self._guards[DECISIONS].check()
            self._decisions.append_decisions(bodies)

    def _append_heartbeat(self, events: Sequence[Event]) -> None:
        """An idle server learns by its heartbeats that the log takes records again. The bounds are for decisions: a heartbeat is small, and
        is needed most while nothing else is said."""
        with self._log_health[DECISIONS].watched():
            self._decisions.append(events)
            self._guards[DECISIONS].check()

    def _log_changed(self, takes: bool) -> None:
        """While the log takes nothing, callers are sent elsewhere, unless this server has fallbacks for them."""
        if self._ready and self._config.on_log_full == "refuse":
            self._set_health(_SERVING if takes else _NOT_SERVING)

    def _append_feedback(self, events: Sequence[Event]) -> None:
        with self._log_health[FEEDBACK].watched():
            self._guards[FEEDBACK].check()
            self._feedback.append(events)

    def _admin_server(self) -> Any:
        """The admin service, on grpcio whatever takes the other calls."""
        config = self._config
        calls = CallHandler(
            admin_methods(Admin(self._holders, self._stores, now_us=now_us)),
            deadline_cap_s=config.deadline_cap_s,
            max_streams=0,
            new_error_id=_new_id,
            observer=self.metrics,
            door=self._door,
        )
        pool = CallThreads(_ADMIN_THREADS, name="admin", message_within_s=max(config.deadline_cap_s, _MESSAGE_WITHIN_S))
        return grpcio_server(calls, pool, config, shares_port=False)

    def _admin_bound(self) -> str:
        if self._admin is None:
            return ""
        asked = self._config.admin_address
        return f"{asked.rpartition(':')[0]}:{bind(self._admin, asked, tls=self._config.tls, key='admin_address')}"

    def _set_health(self, status: int) -> None:
        for name in ("", SERVICE, *(rules.name for rules in self._rules())):
            self._health.set(name, status)

    def _rules(self) -> list[TaskRules]:
        return [holder.rules for holder in self._holders.values()]


def _file(catalogues: Path | None, rules: TaskRules) -> CatalogueFile | None:
    if catalogues is None:
        return None
    return CatalogueFile(catalogues / f"{rules.name}.yaml", schema=rules.schema, limits=rules.limits)


def now_us() -> int:
    """The clock of a server, microseconds since the epoch."""
    return time.time_ns() // 1000


def _new_id() -> str:
    return secrets.token_hex(16)
