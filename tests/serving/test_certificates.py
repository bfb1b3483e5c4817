"""TLS by config, on either front: who is taken, and a certificate that is exchanged while the server runs."""

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme

from bandits.config import TaskPolicy
from serving.certificates import CertificateWatch
from serving.config import Tls
from serving.errors import ServingError
from serving.server import Server
from tests.serving.kit import select_request

SELECT = "/slateloop.v1.PolicyService/Select"


def written(folder: Path, authority: trustme.CA, *, clients: trustme.CA | None = None) -> Tls:
    """The files of a server whose certificate the authority has signed."""
    own = authority.issue_cert("localhost")
    (folder / "chain.pem").write_bytes(b"".join(part.bytes() for part in own.cert_chain_pems))
    (folder / "key.pem").write_bytes(own.private_key_pem.bytes())
    if clients is not None:
        (folder / "clients.pem").write_bytes(clients.cert_pem.bytes())
    return Tls(certificate=folder / "chain.pem", key=folder / "key.pem", client_ca=None if clients is None else folder / "clients.pem")


def called(server: Server, shop: TaskPolicy, trusted: trustme.CA, *, signed_by: trustme.CA | None = None) -> bool:
    """One call on a connection of its own: true = answered, false = the connection was refused."""
    own: dict[str, bytes] = {}
    if signed_by is not None:
        caller = signed_by.issue_cert("caller@example.org")
        own = {"private_key": caller.private_key_pem.bytes(), "certificate_chain": caller.cert_chain_pems[0].bytes()}
    credentials = grpc.ssl_channel_credentials(trusted.cert_pem.bytes(), **own)
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{server.port}", credentials, options=options) as channel:
        try:
            return bool(channel.unary_unary(SELECT)(select_request(shop).SerializeToString(), timeout=20))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False


def watch_of(server: Server) -> CertificateWatch:
    return next(thread for thread in server._threads if isinstance(thread, CertificateWatch))


def test_a_client_that_trusts_the_authority_is_answered_and_plain_text_is_not(
    start_server: Callable[..., Server], tmp_path: Path, shop: TaskPolicy
) -> None:
    authority = trustme.CA()
    server = start_server(tls=written(tmp_path, authority), address="localhost:0")
    assert called(server, shop, authority) and not called(server, shop, trustme.CA())
    with grpc.insecure_channel(f"localhost:{server.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(SELECT)(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_with_an_authority_of_clients_only_those_that_it_signed_are_taken(
    start_server: Callable[..., Server], tmp_path: Path, shop: TaskPolicy
) -> None:
    authority, clients = trustme.CA(), trustme.CA()
    server = start_server(tls=written(tmp_path, authority, clients=clients), address="localhost:0")
    assert called(server, shop, authority, signed_by=clients)
    assert not called(server, shop, authority) and not called(server, shop, authority, signed_by=trustme.CA())


def test_a_new_certificate_is_taken_without_a_restart_and_a_broken_one_changes_nothing(
    start_server: Callable[..., Server], tmp_path: Path, shop: TaskPolicy
) -> None:
    first, second = trustme.CA(), trustme.CA()
    server = start_server(tls=written(tmp_path, first), address="localhost:0")
    watch = watch_of(server)
    watch.close()
    (tmp_path / "chain.pem").write_bytes(b"no certificate")
    watch.look()
    assert called(server, shop, first)
    written(tmp_path, second)
    watch.look()
    assert called(server, shop, second) and not called(server, shop, first)
    (tmp_path / "key.pem").unlink()
    watch.look()
    assert called(server, shop, second)


def test_files_that_cannot_be_used_are_named_at_the_start(start_server: Callable[..., Server], tmp_path: Path) -> None:
    tls = written(tmp_path, trustme.CA())
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ServingError, match=r"tls\.key: .*key\.pem cannot be read"):
        start_server(tls=tls)
