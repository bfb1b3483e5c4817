"""Puts the parts together behind grpcio's synchronous server, and takes them down in the order that loses nothing."""

import concurrent.futures
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from bandits.first import ensure_champion
from bandits.store import Store
from protos import policy_pb2
from protos.events_pb2 import Event
from protos.log_files import DECISIONS, FEEDBACK
from protos.task import TaskFile
from serving.admin import Admin, admin_methods
from serving.bounds import LogBounds, LogGuard
from serving.calls import CallHandler, Method, Shortcut, Stream
from serving.catalogues import CatalogueFile
from serving.config import ServerConfig
from serving.decision_log import LogWriter, Stamp, stamp_append, stamp_decision
from serving.door.door import Door
from serving.door.limits import Limits as TenantBudgets
from serving.door.tls import Rotating, credentials
from serving.door.tokens import Tokens
from serving.engine import Engine
from serving.errors import ServingError
from serving.heartbeats import Heartbeats, heartbeat_event
from serving.idempotency import RequestMemory
from serving.log_health import LogHealth
from serving.metrics import Metrics, Watched
from serving.native import Limits, NativeServer, front, gathered
from serving.planned import Planned
from serving.request_ids import RequestIds
from serving.servicer import GATHERED, Servicer, result
from serving.shipping import Lag, Shipper, kafka_producer, lag_of
from serving.snapshots import SnapshotHolder, SnapshotWatch
from serving.tasks import TaskRules, rules_by_key
from serving.traffic.keeper import keeper_of
from serving.traffic.units import UnitTables
from serving.turns import Alone, InTurn, Turns

__all__ = ["ALL_OF_IT", "WORKER", "Part", "Server", "now_us"]

_logger = logging.getLogger(__name__)
_SERVICE = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
# Operators are few.
_ADMIN_THREADS = 4
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
        self._config, self._part = config, part
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
        self._log_health = LogHealth(self._log_changed)
        self.metrics = Metrics(now_us=now_us)
        self._shippers = {name: self._shipper(logs / name) for name in (DECISIONS, FEEDBACK) if config.bootstrap and part.ships}
        self._guards = {name: self._guard(logs / name) for name in (DECISIONS, FEEDBACK)}
        self.metrics.watch(Watched(list(self._holders.values()), self._lags(logs), self._shippers, self._guards))
        self._metrics_server: Any = None
        #: Where Prometheus may ask, or empty.
        self.metrics_address = ""
        self._ready = self._drained = False
        self._threads: list[SnapshotWatch | Heartbeats] = []
        self._door = _door(config)
        self._grpc = self._grpc_server()
        self.port = self._bind(self._grpc, config.address, "address")
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
        self._decisions.close()
        self._feedback.close()
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

    def _lags(self, logs: Path) -> dict[str, Callable[[], Lag]]:
        return {name: functools.partial(self._lag, logs / name) for name in (DECISIONS, FEEDBACK) if self._config.bootstrap}

    def _lag(self, log: Path) -> Lag:
        if not self._config.bootstrap:
            return Lag(0, 0.0)
        return self._shippers[log.name].lag if self._part.ships else lag_of(log, now_us=now_us())

    def _log(self, path: Path, stamp: Stamp) -> LogWriter:
        config = self._config
        sizes: dict[str, Any] = {"segment_bytes": config.segment_bytes, "sync_s": config.sync_ms / 1e3}
        return LogWriter(path, stamp=stamp, now_us=now_us, turns=self._part.turns, **sizes)

    def _grpc_server(self) -> Any:
        config = self._config
        calls = CallHandler(
            _methods(self._servicer()),
            deadline_cap_s=config.deadline_cap_s,
            max_streams=config.max_streams,
            new_error_id=_new_id,
            observer=self.metrics,
            door=self._door,
        )
        # A stream keeps its thread for as long as it lives.
        pool = concurrent.futures.ThreadPoolExecutor(config.threads + config.max_streams, thread_name_prefix="call")
        if config.front == "native":
            server: Any = native_server(calls, pool, config, self._part, shortcut=self._planned().answer)
        else:
            server = grpcio_server(calls, pool, config, self._part)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            reflection.enable_server_reflection((_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    def _planned(self) -> Planned:
        def append_framed(framed: Callable[[int], bytes]) -> None:
            with self._log_health.watched():
                self._guards[DECISIONS].check()
                self._decisions.append_framed(framed)

        return Planned(front().Planner(), holders=self._holders, append_framed=append_framed, observer=self.metrics)

    def _servicer(self) -> Servicer:
        self._engine = Engine(
            holders=self._holders,
            append=self._append_decisions,
            memory=RequestMemory(entries=self._config.remembered_requests),
            new_request_id=RequestIds(),
            fall_back=self._config.on_log_full == "fallback",
            observer=self.metrics,
        )
        ahead_us = int(self._config.max_future_s * 1e6)
        about: dict[str, Any] = {"now_us": now_us, "latest_us": lambda: now_us() + ahead_us}
        return Servicer(self._engine, append_feedback=self._append_feedback, **about)

    def _append_decisions(self, bodies: Sequence[bytes]) -> None:
        with self._log_health.watched():
            self._guards[DECISIONS].check()
            self._decisions.append_decisions(bodies)

    def _append_heartbeat(self, events: Sequence[Event]) -> None:
        """An idle server learns by its heartbeats that the log takes records again. The bounds are for decisions: a heartbeat is small, and
        is needed most while nothing else is said."""
        with self._log_health.watched():
            self._decisions.append(events)
            self._guards[DECISIONS].check()

    def _log_changed(self, takes: bool) -> None:
        """While the log takes nothing, callers are sent elsewhere, unless this server has fallbacks for them."""
        if self._ready and self._config.on_log_full == "refuse":
            self._set_health(_SERVING if takes else _NOT_SERVING)

    def _append_feedback(self, events: Sequence[Event]) -> None:
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
        pool = concurrent.futures.ThreadPoolExecutor(_ADMIN_THREADS, thread_name_prefix="admin")
        return grpcio_server(calls, pool, config, ALL_OF_IT)

    def _admin_bound(self) -> str:
        if self._admin is None:
            return ""
        asked = self._config.admin_address
        return f"{asked.rpartition(':')[0]}:{self._bind(self._admin, asked, 'admin_address')}"

    def _bind(self, server: Any, address: str, key: str) -> int:
        tls = self._config.tls
        try:
            if tls is None:
                return int(server.add_insecure_port(address))
            # The native front reads the files itself; grpcio wants credentials.
            given = Rotating(tls) if isinstance(server, NativeServer) else credentials(tls)
            return int(server.add_secure_port(address, given))
        except RuntimeError as error:
            raise ServingError(f"{key}: {address!r} cannot be bound; give a free host:port (port 0 takes any)") from error

    def _set_health(self, status: int) -> None:
        for name in ("", _SERVICE, *(rules.name for rules in self._rules())):
            self._health.set(name, status)

    def _rules(self) -> list[TaskRules]:
        return [holder.rules for holder in self._holders.values()]


def grpcio_server(calls: CallHandler, pool: concurrent.futures.Executor, config: ServerConfig, part: Part) -> Any:
    """grpcio's synchronous server."""
    return grpc.server(
        pool,
        handlers=[calls],
        maximum_concurrent_rpcs=config.max_concurrent_rpcs,
        # Two servers on one port would share the calls between two decision logs without saying so; workers share one log.
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.so_reuseport", int(part.shares_port)),
            ("grpc.max_connection_idle_ms", int(config.max_connection_idle_s * 1e3)),
            *_connection_age(config),
        ],
    )


def _connection_age(config: ServerConfig) -> list[tuple[str, int]]:
    if config.max_connection_age_s is None:
        return []
    grace_ms = int(config.drain_grace_s * 1e3)
    return [("grpc.max_connection_age_ms", int(config.max_connection_age_s * 1e3)), ("grpc.max_connection_age_grace_ms", grace_ms)]


def _door(config: ServerConfig) -> Door | None:
    """None where everyone may come in and ask for as much as they like: then no call pays for it."""
    if config.auth is None and not config.tenants:
        return None
    tokens = Tokens(config.auth, now_s=time.time) if config.auth is not None else None
    return Door(tokens=tokens, limits=TenantBudgets(config.tenants, now_s=time.monotonic) if config.tenants else None)


def native_server(
    calls: CallHandler, pool: concurrent.futures.Executor, config: ServerConfig, part: Part, *, shortcut: Shortcut
) -> NativeServer:
    """The native front end, which decides what has come together together. Raises ServingError where it is not installed."""
    limits = Limits(config.max_message_bytes, config.max_concurrent_rpcs, config.deadline_cap_s)
    selects = gathered(calls, f"/{_SERVICE}/Select", most=GATHERED, shortcut=shortcut)
    return NativeServer(pool, handlers=[calls], gathered=selects, limits=limits, shares_port=part.shares_port)


def _file(catalogues: Path | None, rules: TaskRules) -> CatalogueFile | None:
    if catalogues is None:
        return None
    return CatalogueFile(catalogues / f"{rules.name}.yaml", schema=rules.schema, limits=rules.limits)


def _methods(servicer: Servicer) -> dict[str, Method | Stream]:
    """The calls of the service by full name."""
    messages = policy_pb2
    return {
        f"/{_SERVICE}/Select": Method(servicer.read, servicer.select, servicer.select_all),
        f"/{_SERVICE}/SelectBatch": Method(servicer.read_batch, servicer.select_batch),
        f"/{_SERVICE}/SelectStream": Stream(servicer.read, servicer.select_or_say, result),
        f"/{_SERVICE}/Assign": Method(messages.AssignRequest.FromString, servicer.assign),
        f"/{_SERVICE}/Feedback": Method(messages.FeedbackRequest.FromString, servicer.feedback),
        f"/{_SERVICE}/GetPolicy": Method(messages.GetPolicyRequest.FromString, servicer.get_policy),
    }


def now_us() -> int:
    """The clock of a server, microseconds since the epoch."""
    return time.time_ns() // 1000


def _new_id() -> str:
    return secrets.token_hex(16)
