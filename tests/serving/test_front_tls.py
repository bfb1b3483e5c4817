"""The native front's own port with TLS: who is let in, and certificates that are exchanged. What it shares with grpcio: test_tls."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from bandits.config import TaskPolicy
from protos.task import load_tasks
from serving import native
from serving.config import ServerConfig
from serving.server import Server
from tests.serving.kit import native_only, select_request

pytestmark = native_only
SELECT = "/slateloop.v1.PolicyService/Select"


class Files:
    """Certificates as they would stand in files, which a test exchanges."""

    def __init__(self, authority: trustme.CA, *, clients: trustme.CA | None = None) -> None:
        self.clients = clients
        self.pem = self.signed_by(authority)
        self._next: Any = None

    def signed_by(self, authority: trustme.CA) -> tuple[bytes, bytes, bytes | None]:
        own = authority.issue_cert("localhost")
        chain = b"".join(part.bytes() for part in own.cert_chain_pems)
        return chain, own.private_key_pem.bytes(), self.clients.cert_pem.bytes() if self.clients else None

    def exchange(self, pem: Any) -> None:
        self._next = pem

    def changed(self) -> Any:
        found, self._next = self._next, None
        return found


@contextlib.contextmanager
def encrypted(tasks: Path, folder: Path, files: Files) -> Iterator[tuple[Server, int]]:
    """A server, and a second port of it that is encrypted."""
    config = ServerConfig(address="127.0.0.1:0", front="native", heartbeat_s=3600.0, drain_grace_s=1.0)
    server = Server(config, tasks=load_tasks(tasks), store=folder / "store", logs=folder / "logs")
    port = server._grpc.add_secure_port("localhost:0", files)
    try:
        server.start()
        yield server, port
    finally:
        server.drain()


def answered(port: int, shop: TaskPolicy, trusted: trustme.CA, *, signed_by: trustme.CA | None = None) -> bool:
    """One call on a connection of its own: true = answered, false = the connection was refused."""
    own: dict[str, bytes] = {}
    if signed_by is not None:
        caller = signed_by.issue_cert("caller@example.org")
        own = {"private_key": caller.private_key_pem.bytes(), "certificate_chain": caller.cert_chain_pems[0].bytes()}
    credentials = grpc.ssl_channel_credentials(trusted.cert_pem.bytes(), **own)
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options=options) as channel:
        try:
            return bool(channel.unary_unary(SELECT)(select_request(shop).SerializeToString(), timeout=20))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False


def test_with_tls_who_trusts_the_authority_is_answered_and_plain_text_is_not(tmp_path: Path, tasks: Path, shop: TaskPolicy) -> None:
    authority, clients = trustme.CA(), trustme.CA()
    with encrypted(tasks, tmp_path, Files(authority, clients=clients)) as (_, port):
        assert answered(port, shop, authority, signed_by=clients)
        assert not answered(port, shop, authority) and not answered(port, shop, authority, signed_by=trustme.CA())
        assert not answered(port, shop, trustme.CA(), signed_by=clients)
        with grpc.insecure_channel(f"localhost:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(SELECT)(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_new_certificate_is_taken_without_a_restart_and_a_broken_one_changes_nothing(
    tmp_path: Path, tasks: Path, shop: TaskPolicy
) -> None:
    first, second = trustme.CA(), trustme.CA()
    files = Files(first)
    with encrypted(tasks, tmp_path, files) as (server, port):
        for broken in ((b"no certificate", files.pem[1], None), (files.pem[0], files.signed_by(first)[1], None)):
            files.exchange(broken)
            server._grpc.look(files)
            assert answered(port, shop, first)
        files.exchange(files.signed_by(second))
        server._grpc.look(files)
        assert answered(port, shop, second) and not answered(port, shop, first)


def test_a_key_that_is_none_is_refused_by_name() -> None:
    about: dict[str, Any] = {"max_message_bytes": 1, "max_metadata_bytes": 1, "max_concurrent_rpcs": 1, "deadline_cap_s": 1.0}
    with pytest.raises(ValueError, match=r"tls: .*PEM"):
        native.front().Front(gathered=[("/a.B/C", 1)], with_metadata=False, **about).bind("localhost:0", tls=(b"", b"", None))
