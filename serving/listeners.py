"""What takes the calls: grpcio's server or the native front, with the certificates, the door and the limits of the server's file."""

import concurrent.futures
import time
from typing import Any

import grpc

from protos import policy_pb2
from serving.calls import CallHandler, Method, Shortcut, Stream
from serving.config import ServerConfig
from serving.door.door import Door
from serving.door.limits import Limits as TenantBudgets
from serving.door.section import Tls
from serving.door.tls import Rotating, credentials
from serving.door.tokens import Tokens
from serving.errors import ServingError
from serving.native import Limits, NativeServer, gathered
from serving.servicer import GATHERED, Servicer, result

__all__ = ["SERVICE", "bind", "door_of", "grpcio_server", "native_server", "policy_methods"]

#: Full name of the service.
SERVICE = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name


def bind(server: Any, address: str, *, tls: Tls | None, key: str) -> int:
    """Listens at an address, named `key` in the server's file, and returns the port. Raises ServingError where it cannot."""
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        # The native front reads the files itself; grpcio wants credentials.
        given = Rotating(tls) if isinstance(server, NativeServer) else credentials(tls)
        return int(server.add_secure_port(address, given))
    except RuntimeError as error:
        raise ServingError(f"{key}: {address!r} cannot be bound; give a free host:port (port 0 takes any)") from error


def grpcio_server(calls: CallHandler, pool: concurrent.futures.Executor, config: ServerConfig, *, shares_port: bool) -> Any:
    """grpcio's synchronous server."""
    return grpc.server(
        pool,
        handlers=[calls],
        maximum_concurrent_rpcs=config.max_concurrent_rpcs,
        # Two servers on one port would share the calls between two decision logs without saying so; workers share one log.
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.so_reuseport", int(shares_port)),
            ("grpc.max_connection_idle_ms", int(config.max_connection_idle_s * 1e3)),
            *_connection_age(config),
        ],
    )


def _connection_age(config: ServerConfig) -> list[tuple[str, int]]:
    if config.max_connection_age_s is None:
        return []
    grace_ms = int(config.drain_grace_s * 1e3)
    return [("grpc.max_connection_age_ms", int(config.max_connection_age_s * 1e3)), ("grpc.max_connection_age_grace_ms", grace_ms)]


def door_of(config: ServerConfig) -> Door | None:
    """None where everyone may come in and ask for as much as they like: then no call pays for it."""
    if config.auth is None and not config.tenants:
        return None
    tokens = Tokens(config.auth, now_s=time.time) if config.auth is not None else None
    return Door(tokens=tokens, limits=TenantBudgets(config.tenants, now_s=time.monotonic) if config.tenants else None)


def native_server(
    calls: CallHandler, pool: concurrent.futures.Executor, config: ServerConfig, *, shares_port: bool, shortcut: Shortcut
) -> NativeServer:
    """The native front end, which answers together what has come together. Raises ServingError where it is not installed."""
    sizes = (config.max_message_bytes, config.max_concurrent_rpcs, config.deadline_cap_s)
    limits = Limits(*sizes, max_idle_s=config.max_connection_idle_s, max_age_s=config.max_connection_age_s)
    together = [
        gathered(calls, f"/{SERVICE}/Select", most=GATHERED, shortcut=shortcut),
        gathered(calls, f"/{SERVICE}/Assign", most=GATHERED),
    ]
    about: dict[str, Any] = {"with_metadata": calls.reads_metadata, "shares_port": shares_port}
    return NativeServer(pool, handlers=[calls], gathered=together, limits=limits, **about)


def policy_methods(servicer: Servicer, *, batches: Method) -> dict[str, Method | Stream]:
    """The calls of the service by full name; `batches` answers SelectBatch."""
    messages = policy_pb2
    return {
        f"/{SERVICE}/Select": Method(servicer.read, servicer.select, servicer.select_all),
        f"/{SERVICE}/SelectBatch": batches,
        f"/{SERVICE}/SelectStream": Stream(servicer.read, servicer.select_or_say, result),
        f"/{SERVICE}/Assign": Method(messages.AssignRequest.FromString, servicer.assign, servicer.assign_all),
        f"/{SERVICE}/Feedback": Method(messages.FeedbackRequest.FromString, servicer.feedback),
        f"/{SERVICE}/GetPolicy": Method(messages.GetPolicyRequest.FromString, servicer.get_policy),
    }
