"""What users write for this room: the server's own YAML, and the section `limits` of a task."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from protos import config
from serving.door.section import Auth, TenantLimits, Tls

__all__ = ["Limits", "ServerConfig", "load_server_config"]


class ServerConfig(config.StrictModel):
    """One server process: configs/serving.yaml."""

    #: Where to listen, `host:port`; port 0 takes any free one.
    address: str = pydantic.Field(default="127.0.0.1:50051", pattern=r"^.+:\d{1,5}$")
    #: Processes that share the port and the logs, 1..64; each has `threads` and its own memory of requests.
    workers: int = pydantic.Field(default=1, ge=1, le=64)
    #: What takes the calls. `grpcio` is everywhere; `native` serves several times as many and needs slateloop[front].
    front: Literal["grpcio", "native"] = "grpcio"
    #: Threads that answer calls, 1..256: as many requests are decided together at most (one core, 32 callers: 16 to 32 are best).
    threads: int = pydantic.Field(default=16, ge=1, le=256)
    #: Calls that may run or wait at once, 1..65,536; one more is refused with RESOURCE_EXHAUSTED.
    max_concurrent_rpcs: int = pydantic.Field(default=256, ge=1, le=65_536)
    #: SelectStream calls that may be open at once, 0..256; each keeps a thread of its own, and one more is refused.
    max_streams: int = pydantic.Field(default=4, ge=0, le=256)
    #: Largest message taken, bytes, 1 KiB..8 MiB (a log record holds twice that).
    max_message_bytes: int = pydantic.Field(default=4 << 20, ge=1 << 10, le=8 << 20)
    #: Longest that a call may wait for a thread, and a thread for its message, seconds, > 0. Caps any longer deadline of the caller.
    deadline_cap_s: float = pydantic.Field(default=1.0, gt=0.0, le=600.0)
    #: How long running calls may take to finish after SIGTERM, seconds, >= 0.
    drain_grace_s: float = pydantic.Field(default=5.0, ge=0.0, le=600.0)
    #: How often the store is asked for the champion, seconds, > 0.
    poll_s: float = pydantic.Field(default=0.5, gt=0.0, le=3600.0)
    #: An idle server writes a heartbeat into its decision log this often, seconds, > 0.
    heartbeat_s: float = pydantic.Field(default=0.2, gt=0.0, le=3600.0)
    #: At the end, write a last heartbeat that says that no decision will follow (the end of a demo).
    final_heartbeat: bool = False
    #: Answers kept by request id, for retries, 0..10,000,000; the oldest are forgotten first.
    remembered_requests: int = pydantic.Field(default=65_536, ge=0, le=10_000_000)
    #: A log segment is closed above this size, bytes, 4 KiB..1 TiB.
    segment_bytes: int = pydantic.Field(default=64 << 20, ge=4 << 10, le=1 << 40)
    #: Written records reach the disk at the latest after this, milliseconds, > 0: what a power cut may take.
    sync_ms: float = pydantic.Field(default=10.0, gt=0.0, le=10_000.0)
    #: Kafka that the logs are shipped to, `host:port,...`; empty = they are not, and one joiner reads them where they are.
    bootstrap: str = ""
    #: librdkafka's own settings, laid over ours (security, client id); idempotence, acks and partitioner stay.
    kafka: dict[str, str | int | float | bool] = pydantic.Field(default_factory=dict, repr=False)
    #: What the broker may be behind the log, bytes, >= 1 MiB, and seconds, > 0; beyond it nothing is acknowledged.
    log_max_bytes: int = pydantic.Field(default=1 << 30, ge=1 << 20)
    log_max_age_s: float = pydantic.Field(default=3600.0, gt=0.0)
    #: Share of the disk that the log leaves free, 0..0.5; below it nothing is acknowledged.
    disk_reserve: float = pydantic.Field(default=0.05, ge=0.0, le=0.5)
    #: What is answered while the log takes nothing. `refuse`: UNAVAILABLE. `fallback`: the first eligible candidates, `logged = false`.
    on_log_full: Literal["refuse", "fallback"] = "refuse"
    #: Where Prometheus may ask, `host:port` (port 0 takes any free one), of several workers the port plus its number; empty = nowhere.
    metrics_address: str = pydantic.Field(default="", pattern=r"^$|^.+:\d{1,5}$")
    #: Longest that a reload waits, seconds, >= 0: each server waits its own part of it, so that they don't reload all at once.
    reload_jitter_s: float = pydantic.Field(default=0.0, ge=0.0, le=600.0)
    #: How far an event of Feedback may lie in the future, seconds, >= 0.
    max_future_s: float = pydantic.Field(default=86_400.0, ge=0.0)
    #: Folder of unit features, one below it a tenant, as `attribution unit-features` writes them; empty = none are held.
    unit_features: str = ""
    #: How often the features of requests are compared with those of the training rows, seconds, > 0; null = never.
    drift_s: float | None = pydantic.Field(default=30.0, gt=0.0)
    #: CPU time that scoring shadows may take, as a share of what all the rest takes, > 0; null = no bound. Others are passed over.
    shadow_cpu: float | None = pydantic.Field(default=0.04, gt=0.0)
    #: Let clients list services and messages (gRPC reflection).
    reflection: bool = False
    #: Certificates: `{certificate: PATH, key: PATH, client_ca: PATH}`; null = no TLS. With `client_ca` every client needs a certificate.
    tls: Tls | None = None
    #: Tokens: `{keys: PATH, audience: NAME}`; null = nobody is asked for one.
    auth: Auth | None = None
    #: Limits by tenant, "*" = every other: `{"*": {rate_per_s: 1000, burst: 2000, concurrent: 64}}`; a tenant that is not here has none.
    tenants: dict[str, TenantLimits] = pydantic.Field(default_factory=dict)
    #: Where the admin service listens, `host:port` (port 0 takes any free one); empty = nowhere. On another address than this machine's own
    #: it needs `auth` and `tls`.
    admin_address: str = pydantic.Field(default="", pattern=r"^$|^.+:\d{1,5}$")
    #: A connection without a call is closed after this, seconds, > 0 (its client opens another), and any after `max_connection_age_s`.
    max_connection_idle_s: float = pydantic.Field(default=900.0, gt=0.0)
    #: Seconds, > 0; null = never. Calls that run may end within `drain_grace_s`.
    max_connection_age_s: float | None = pydantic.Field(default=None, gt=0.0)

    @pydantic.model_validator(mode="after")
    def _admits_only_known_operators(self) -> "ServerConfig":
        local = _is_local(self.admin_address.rpartition(":")[0])
        if self.admin_address and not local and (self.auth is None or self.tls is None):
            raise ValueError(
                f"admin_address = {self.admin_address!r}: reachable from elsewhere; declare `auth` and `tls`, or use 127.0.0.1"
            )
        return self


def _is_local(host: str) -> bool:
    """Is it an address of this machine that no other reaches? Names but `localhost` are not looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Limits(config.StrictModel):
    """The section `limits` of a task's file. The compiled shapes follow from it: larger limits take longer to warm."""

    #: Candidates that a request may name, 1..10,000.
    max_candidates: int = pydantic.Field(default=128, ge=1, le=10_000)
    #: Slots that a slate may have, 1..64.
    max_slots: int = pydantic.Field(default=8, ge=1, le=64)


def load_server_config(path: Path | None, *, overrides: Sequence[str] = ()) -> tuple[ServerConfig, dict[str, Any]]:
    """The server's config from a YAML file (None: all defaults) under `key=value` flags, and the raw mapping that it was made of.

    Raises ConfigError with one line a fault.
    """
    given = config.apply_overrides({} if path is None else config.load_yaml(path), overrides)
    return config.parse(ServerConfig, given, where=""), given
