"""TLS and mTLS on the server's port: old protocols, foreign and expired certificates are refused; files are changed without a restart."""

import datetime
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
import yaml

from bandits.config import TaskPolicy
from serving.config import ServerConfig
from serving.door.section import Tls
from serving.door.tls import Rotating, read_pem
from serving.errors import ServingError
from serving.server import Server
from tests.serving.kit import FRONTS, TASK, Process, select_request, serving_from

SELECT = "/slateloop.v1.PolicyService/Select"
SERVERS, CLIENTS, FOREIGN = (trustme.CA() for _ in range(3))


class Files:
    """The files of a server's section `tls`."""

    def __init__(self, folder: Path) -> None:
        self.paths = {name: str(folder / f"{name}.pem") for name in ("certificate", "key", "client_ca")}
        self.issue(CLIENTS)

    def issue(self, clients: trustme.CA) -> bytes:
        """A new certificate in place of the one before; the certificate, DER."""
        issued = SERVERS.issue_cert("localhost")
        for name, blob in zip(self.paths, (issued.cert_chain_pems[0], issued.private_key_pem, clients.cert_pem), strict=True):
            draft = Path(f"{self.paths[name]}.new")
            draft.write_bytes(blob.bytes())
            draft.rename(self.paths[name])
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tasks: Path, files: Files) -> Iterator[Server]:
    about = {"front": request.param, "tls": files.paths, "admin_address": "127.0.0.1:0"}
    with serving_from(tmp_path_factory.mktemp("tls"), tasks, **about) as running:
        yield running


def status(server: Server, shop: TaskPolicy, client: Any = None, *, plain: bool = False) -> str:
    """The status of a Select with a client's certificate."""
    return status_at(server.port, shop, client, plain=plain)


def status_at(port: int, shop: TaskPolicy, client: Any, *, plain: bool = False) -> str:
    target, root = f"localhost:{port}", SERVERS.cert_pem.bytes()
    if plain:
        channel = grpc.insecure_channel(target)
    elif client is None:
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(root))
    else:
        pair = client.private_key_pem.bytes(), b"".join(blob.bytes() for blob in client.cert_chain_pems)
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(root, *pair))
    with channel:
        try:
            channel.unary_unary(SELECT)(select_request(shop).SerializeToString(), timeout=10)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def client_of(authority: trustme.CA, **about: Any) -> trustme.LeafCert:
    return authority.issue_cert("product@example.com", **about)


def expired() -> trustme.LeafCert:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return client_of(CLIENTS, not_after=past)


CASES: dict[str, tuple[Callable[[], Any], bool]] = {
    "a client of the named authority": (lambda: client_of(CLIENTS), True),
    "no certificate": (lambda: None, False),
    "a foreign certificate": (lambda: client_of(FOREIGN), False),
    "the server's own authority": (lambda: client_of(SERVERS), False),
    "an expired certificate": (expired, False),
}


@pytest.mark.parametrize("case", CASES)
def test_only_certificates_of_the_named_authority_come_in(server: Server, shop: TaskPolicy, case: str) -> None:
    make, wanted = CASES[case]
    assert status(server, shop, make()) == ("OK" if wanted else "UNAVAILABLE")


def test_plaintext_is_no_way_in(server: Server, shop: TaskPolicy) -> None:
    assert status(server, shop, plain=True) == "UNAVAILABLE"


def handshake(address: str, *, version: ssl.TLSVersion, least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> tuple[str | None, bytes]:
    """The protocol that was agreed on, and the server's certificate, DER."""
    context = ssl.create_default_context()
    SERVERS.configure_trust(context)
    client_of(CLIENTS).configure_cert(context)
    # As a client that knows nothing newer, and would take anything old.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = least, version
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        found = wrapped.getpeercert(binary_form=True)
        assert found is not None
        return wrapped.version(), found


@pytest.mark.parametrize("service", ["policy", "admin"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(server: Server, service: str) -> None:
    address = server.address if service == "policy" else server.admin_address
    assert handshake(address, version=ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2"
    assert handshake(address, version=ssl.TLSVersion.TLSv1_3)[0] == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(address, version=ssl.TLSVersion.TLSv1_1, least=ssl.TLSVersion.TLSv1)


def certificate(address: str) -> bytes:
    """The server's certificate, DER, as a new connection sees it."""
    return handshake(address, version=ssl.TLSVersion.TLSv1_3)[1]


def soon(front: str, holds: Callable[[], bool]) -> bool:
    """grpcio looks at the files at each handshake, the native front once a second."""
    until = time.monotonic() + (0.0 if front == "grpcio" else 20.0)
    while not (held := holds()) and time.monotonic() < until:
        time.sleep(0.05)
    return held


def test_certificates_and_authorities_are_changed_without_a_restart(server: Server, files: Files, shop: TaskPolicy) -> None:
    front, before = server._config.front, certificate(server.address)
    after = files.issue(CLIENTS)
    assert before != after and soon(front, lambda: certificate(server.address) == after)
    files.issue(FOREIGN)
    try:
        assert soon(front, lambda: status(server, shop, client_of(FOREIGN)) == "OK")
        assert status(server, shop, client_of(CLIENTS)) == "UNAVAILABLE"
    finally:
        files.issue(CLIENTS)
    assert soon(front, lambda: status(server, shop, client_of(CLIENTS)) == "OK")


@pytest.mark.slow
def test_a_server_that_its_own_file_tells_of_certificates_changes_them_under_load(
    tmp_path: Path, compilation_cache: Path, shop: TaskPolicy, front: str
) -> None:
    """Its YAML names front and files. They are changed, in part first, while a client calls on a connection that it keeps."""
    files = Files(tmp_path)
    (tmp_path / "tasks").mkdir()
    # Decided by the policy that starts fastest.
    (tmp_path / "tasks" / "shop.yaml").write_text(yaml.safe_dump({**TASK, "policy": {"name": "uniform", "floor": 1.0, "slate_size": 3}}))
    (tmp_path / "serving.yaml").write_text(yaml.safe_dump({"front": front, "tls": files.paths}))
    process = Process(tmp_path, tmp_path / "tasks", compilation_cache, "--config", str(tmp_path / "serving.yaml"))
    address = process.start()
    port, stop, kept = int(address.rpartition(":")[2]), threading.Event(), list[bytes]()
    try:
        assert status_at(port, shop, client_of(CLIENTS)) == "OK" and status_at(port, shop, client_of(FOREIGN)) == "UNAVAILABLE"
        caller = threading.Thread(target=call_until, args=(port, shop, stop, kept))
        caller.start()
        before, foreign = certificate(address), SERVERS.issue_cert("localhost")
        Path(files.paths["certificate"]).write_bytes(foreign.cert_chain_pems[0].bytes())
        assert certificate(address) == before and status_at(port, shop, client_of(CLIENTS)) == "OK"
        after = files.issue(FOREIGN)
        assert soon(front, lambda: status_at(port, shop, client_of(FOREIGN)) == "OK")
        assert status_at(port, shop, client_of(CLIENTS)) == "UNAVAILABLE"
        files.issue(CLIENTS)
        assert soon(front, lambda: status_at(port, shop, client_of(CLIENTS)) == "OK") and certificate(address) not in (before, after)
        answered = len(kept)
        assert soon("native", lambda: len(kept) > answered), "a connection that stands outlives its certificates"
    finally:
        stop.set()
        ended = process.end(signal.SIGTERM)
    caller.join()
    assert ended == 0 and b"" not in kept


def call_until(port: int, shop: TaskPolicy, stop: threading.Event, kept: list[bytes]) -> None:
    """Calls on one connection, and keeps the answers; b"" for a call that failed before the end."""
    own = client_of(CLIENTS)
    pair = own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes()
    credentials = grpc.ssl_channel_credentials(SERVERS.cert_pem.bytes(), *pair)
    with grpc.secure_channel(f"localhost:{port}", credentials, options=[("grpc.enable_retries", 0)]) as channel:
        select = channel.unary_unary(SELECT)
        while not stop.is_set():
            try:
                kept.append(select(select_request(shop).SerializeToString(), timeout=10))
            except grpc.RpcError:
                if not stop.is_set():
                    kept.append(b"")
                return


def test_half_of_a_change_leaves_the_files_before(tmp_path: Path) -> None:
    files = Files(tmp_path)
    rotating = Rotating(Tls(**files.paths))
    before = rotating.pem
    assert rotating.changed() is None
    Path(files.paths["certificate"]).write_bytes(SERVERS.issue_cert("localhost").cert_chain_pems[0].bytes())
    assert rotating.changed() is None and rotating.pem == before
    files.issue(CLIENTS)
    assert rotating.changed() == rotating.pem != before


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
def test_files_that_cannot_be_used_are_refused_by_name_and_never_shown(tmp_path: Path, broken: str) -> None:
    files = Files(tmp_path)
    Path(files.paths[broken]).write_text("-----BEGIN NONSENSE-----")
    with pytest.raises(ServingError, match=r"^tls: .*\.pem.*belong together") as caught:
        read_pem(Tls(**files.paths))
    assert "NONSENSE" not in str(caught.value)
    with pytest.raises(ServingError, match=r"^tls: "):
        Server(
            ServerConfig.model_validate({"address": "127.0.0.1:0", "tls": files.paths}),
            tasks={},
            store=tmp_path / "store",
            logs=tmp_path / "logs",
        )
