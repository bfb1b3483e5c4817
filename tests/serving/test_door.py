"""The security list: each cell of role x call x tenant is exact, and what is in no table is denied. Tokens, limits, secrets, unit ids."""

import base64
import datetime
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client import generate_latest

from protos import admin_pb2, policy_pb2
from protos.events_pb2 import Event, Heartbeat, Signal
from serving.config import ServerConfig
from serving.door.door import Door
from serving.door.limits import Limits
from serving.door.rights import ADMIN, POLICY, RIGHTS, SCOPES, check_scope
from serving.door.section import TenantLimits
from serving.errors import Overloaded, PermissionDenied, ServingError
from serving.server import Server
from tests.serving.kit import FRONTS, RANKED, TASK, serving_from

jwt = pytest.importorskip("jwt", reason="PyJWT is not here: pip install 'slateloop[auth]'")
from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402

AUDIENCE, ISSUER = "slateloop-test", "https://issuer.test"
CANARY = "unit-canary-4711"
KEY, STRANGER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def jwk_of(key: Any, kid: str) -> dict[str, Any]:
    return {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "ES256"}


def token(*, key: Any = KEY, kid: str = "one", algorithm: str = "ES256", **claims: Any) -> str:
    now = datetime.datetime.now(datetime.UTC)
    given = {"sub": "ann", "aud": AUDIENCE, "iss": ISSUER, "exp": now + datetime.timedelta(minutes=5), "tenants": ["default"], **claims}
    kept = {name: value for name, value in given.items() if value is not None}
    return str(jwt.encode(kept, key, algorithm=algorithm, headers={"kid": kid}))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk_of(KEY, "one")]}))
    return path


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tasks: Path, keys: Path) -> Iterator[Server]:
    """One server for all cells, with the admin service and tokens."""
    about = {"auth": {"keys": str(keys), "audience": AUDIENCE, "issuer": ISSUER}, "admin_address": "127.0.0.1:0", "reflection": False}
    with serving_from(tmp_path_factory.mktemp("door"), tasks, front=request.param, **about) as running:
        yield running


def messages_of(tenant: str) -> dict[str, Any]:
    """A message of every call that names this tenant."""
    shop = {"tenant": tenant, "task": "shop" if tenant == "default" else "ranked"}
    select = policy_pb2.SelectRequest(**shop, unit_id=CANARY, candidates={"actions": ["a", "b", "c"]})
    signal = Event(signal=Signal(event_id="e", tenant=tenant, unit_id=CANARY, event_time_us=time.time_ns() // 1000, name="seen"))
    policy = {
        "Select": select,
        "SelectBatch": policy_pb2.SelectBatchRequest(requests=[select]),
        "SelectStream": select,
        "Assign": policy_pb2.AssignRequest(**shop, unit_id=CANARY),
        "Feedback": policy_pb2.FeedbackRequest(events=[signal]),
        "GetPolicy": policy_pb2.GetPolicyRequest(**shop),
    }
    why = {"reason": "test", "expected_generation": 99}
    admin = {
        "GetTraffic": admin_pb2.GetTrafficRequest(**shop),
        "Promote": admin_pb2.PromoteRequest(**shop, verdict="0" * 64, expected_generation=99),
        "Rollback": admin_pb2.RollbackRequest(**shop, **why),
        "Reload": admin_pb2.ReloadRequest(**shop),
        "SetTraffic": admin_pb2.SetTrafficRequest(**shop, experiment="e", **why),
        "SetKillSwitch": admin_pb2.SetKillSwitchRequest(**shop, on=False, reason="test"),
    }
    return {f"{POLICY}{name}": message for name, message in policy.items()} | {f"{ADMIN}{name}": message for name, message in admin.items()}


def called(server: Server, method: str, message: Any, bearer: str | None) -> str:
    """The status of a call, by name; of a stream that of its only turn."""
    address = server.admin_address if method.startswith(ADMIN) else server.address
    metadata = [] if bearer is None else [("authorization", f"Bearer {bearer}")]
    with grpc.insecure_channel(address) as channel:
        try:
            if method.endswith("SelectStream"):
                call = channel.stream_stream(method)(iter([message.SerializeToString()]), metadata=metadata, timeout=10)
                result = policy_pb2.SelectResult.FromString(next(call))
                return next(code.name for code in grpc.StatusCode if code.value[0] == result.error.code)
            channel.unary_unary(method)(message.SerializeToString(), metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            assert CANARY not in error.details()
            return str(error.code().name)
    return "OK"


# What a call with every right is answered here: moves of a generation that does not stand are outdated, which is behind the door.
ALLOWED = dict.fromkeys(RIGHTS, "OK") | {f"{ADMIN}{name}": "ABORTED" for name in ("Promote", "Rollback", "SetTraffic")}
ROLES: dict[str, tuple[str, ...] | None] = {
    "nobody": None,
    "no scope": (),
    **{scope: (scope,) for scope in SCOPES},
    "unknown scope": ("root",),
    "all": SCOPES,
}
TENANTS = ("default", "other", "nowhere")


def wanted_of(role: str, method: str, tenant: str) -> str:
    scopes = ROLES[role]
    if scopes is None:
        return "UNAUTHENTICATED"
    if RIGHTS[method].isdisjoint(scopes):
        return "PERMISSION_DENIED"
    return ALLOWED[method] if tenant == "default" else "NOT_FOUND"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("tenant", TENANTS)
def test_each_cell_of_role_call_and_tenant_is_exact(server: Server, role: str, tenant: str) -> None:
    scopes = ROLES[role]
    bearer = None if scopes is None else token(scope=" ".join(scopes))
    found = {method: called(server, method, message, bearer) for method, message in messages_of(tenant).items()}
    assert found == {method: wanted_of(role, method, tenant) for method in RIGHTS}


def test_the_table_has_every_call_of_both_services_and_denies_what_it_lacks() -> None:
    services = [policy_pb2.DESCRIPTOR.services_by_name["PolicyService"], admin_pb2.DESCRIPTOR.services_by_name["AdminService"]]
    assert set(RIGHTS) == {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert all(scopes and scopes <= set(SCOPES) for scopes in RIGHTS.values())
    with pytest.raises(PermissionDenied, match="no scope allows it"):
        check_scope(f"{POLICY}Drop", SCOPES)


def test_the_admin_service_is_on_its_own_port_only(server: Server) -> None:
    bearer = token(scope=" ".join(SCOPES))
    for address, method in ((server.address, f"{ADMIN}GetTraffic"), (server.admin_address, f"{POLICY}GetPolicy")):
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(b"", metadata=[("authorization", f"Bearer {bearer}")], timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def at(**offset: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(**offset)


def unsigned() -> str:
    return str(jwt.encode({"sub": "ann", "aud": AUDIENCE, "iss": ISSUER, "exp": at(minutes=5), "scope": "select"}, None, algorithm="none"))


def signed_with_the_public_key() -> str:
    """The classic confusion: a public key taken for the shared secret of HS256. By hand: PyJWT makes no such token."""
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = json.dumps({"alg": "HS256", "typ": "JWT", "kid": "one"}).encode()
    body = token(scope="select").split(".")[1]
    signed = f"{base64.urlsafe_b64encode(head).decode().rstrip('=')}.{body}"
    signature = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "garbage": lambda: "x.y.z",
    "empty": lambda: "",
    "too long": lambda: "x" * 5_000,
    "unsigned": unsigned,
    "another key": lambda: token(key=STRANGER, scope="select"),
    "unknown key id": lambda: token(kid="two", scope="select"),
    "shared secret": signed_with_the_public_key,
    "another algorithm": lambda: token(key=rsa.generate_private_key(65537, 2048), algorithm="RS256", scope="select"),
    "expired": lambda: token(scope="select", exp=at(seconds=-60)),
    "not yet valid": lambda: token(scope="select", nbf=at(minutes=5)),
    "another audience": lambda: token(scope="select", aud="elsewhere"),
    "another issuer": lambda: token(scope="select", iss="https://else.test"),
    "no expiry": lambda: token(scope="select", exp=None),
    "no subject": lambda: token(scope="select", sub=None),
    "scopes as a list": lambda: token(scope=["select"]),
    "tenants as text": lambda: token(scope="select", tenants="default"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_token_that_is_not_sound_is_unauthenticated(server: Server, name: str) -> None:
    assert called(server, f"{POLICY}GetPolicy", messages_of("default")[f"{POLICY}GetPolicy"], BAD_TOKENS[name]()) == "UNAUTHENTICATED"


def test_an_altered_token_is_unauthenticated(server: Server) -> None:
    head, body, signature = token(scope="read").split(".")
    other = token(scope="select promote").split(".")[1]
    assert (
        called(server, f"{POLICY}GetPolicy", messages_of("default")[f"{POLICY}GetPolicy"], f"{head}.{other}.{signature}")
        == "UNAUTHENTICATED"
    )
    assert body != other


def test_a_heartbeat_moves_every_tenants_watermark_so_only_who_speaks_for_all_may_send_one(server: Server) -> None:
    beat = policy_pb2.FeedbackRequest(events=[Event(heartbeat=Heartbeat(source="rewards", event_time_us=time.time_ns() // 1000))])
    assert called(server, f"{POLICY}Feedback", beat, token(scope="feedback")) == "NOT_FOUND"
    assert called(server, f"{POLICY}Feedback", beat, token(scope="feedback", tenants=["*"])) == "OK"


def test_a_batch_with_one_foreign_request_is_refused_whole(server: Server) -> None:
    both = policy_pb2.SelectBatchRequest(requests=[messages_of(tenant)[f"{POLICY}Select"] for tenant in ("default", "other")])
    assert called(server, f"{POLICY}SelectBatch", both, token(scope="select")) == "NOT_FOUND"
    assert called(server, f"{POLICY}SelectBatch", both, token(scope="select", tenants=["default", "other"])) == "OK"


def test_keys_are_changed_without_a_restart(server: Server, keys: Path) -> None:
    message = messages_of("default")[f"{POLICY}GetPolicy"]
    new = {"key": STRANGER, "kid": "two", "scope": "read"}
    before = keys.read_text()
    assert called(server, f"{POLICY}GetPolicy", message, token(**new)) == "UNAUTHENTICATED"
    try:
        replaced(keys, json.dumps({"keys": [jwk_of(STRANGER, "two")]}))
        assert called(server, f"{POLICY}GetPolicy", message, token(**new)) == "OK"
        assert called(server, f"{POLICY}GetPolicy", message, token(scope="read")) == "UNAUTHENTICATED"
        replaced(keys, "{}")
        assert called(server, f"{POLICY}GetPolicy", message, token(**new)) == "OK"
    finally:
        replaced(keys, before)
    assert called(server, f"{POLICY}GetPolicy", message, token(scope="read")) == "OK"


def replaced(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.rename(path)


def test_units_and_tokens_stand_in_no_log_line_no_error_and_no_metric(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bearers = [None, token(scope=" ".join(SCOPES)), token(scope=" ".join(SCOPES), tenants=["*"]), BAD_TOKENS["expired"]()]
    for bearer in bearers:
        for tenant in TENANTS:
            for method, message in messages_of(tenant).items():
                called(server, method, message, bearer)
    broken = policy_pb2.SelectRequest(task="shop", unit_id=CANARY, slate_size=60, context={"schema_digest": "1" * 64})
    assert called(server, f"{POLICY}Select", broken, bearers[1]) == "INVALID_ARGUMENT"
    told = caplog.text + generate_latest(server.metrics.registry).decode() + repr(server._config)
    assert CANARY not in told
    assert not [bearer for bearer in bearers if bearer is not None and bearer.split(".")[2] in told]


def test_secrets_of_the_broker_stand_in_no_repr_and_no_printed_config(capsys: pytest.CaptureFixture[str]) -> None:
    from protos.command import print_config

    config = ServerConfig(kafka={"sasl.password": "hunter2", "client.id": "us"})
    print_config([("", config, {"kafka": {}})])
    assert "hunter2" not in repr(config) + capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"}]}', "private"]
)
def test_keys_that_would_be_a_danger_are_refused_at_the_start(tmp_path: Path, tasks: Path, text: str) -> None:
    path = tmp_path / "jwks.json"
    private = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY)), "kid": "one", "alg": "ES256"}
    path.write_text(json.dumps({"keys": [private]}) if text == "private" else text)
    with pytest.raises(ServingError, match=r"^auth\.keys: "):
        Server(
            ServerConfig.model_validate({"address": "127.0.0.1:0", "auth": {"keys": str(path), "audience": AUDIENCE}}),
            tasks={},
            store=tmp_path / "store",
            logs=tmp_path / "logs",
        )


@pytest.mark.parametrize("address", ["0.0.0.0:9000", "[::]:9000", "10.1.2.3:9000", "example.com:9000"])
def test_an_admin_service_that_others_reach_needs_tokens_and_tls(address: str) -> None:
    with pytest.raises(ValueError, match="declare `auth` and `tls`"):
        ServerConfig(admin_address=address)
    auth, tls = {"keys": "k", "audience": "a"}, {"certificate": "c", "key": "k"}
    assert ServerConfig.model_validate({"admin_address": address, "auth": auth, "tls": tls}).admin_address == address


def test_the_admin_service_is_off_by_default_and_local_ones_need_nothing() -> None:
    assert ServerConfig().admin_address == ""
    assert {ServerConfig(admin_address=f"{host}:9000").auth for host in ("127.0.0.1", "localhost", "[::1]")} == {None}


# Limits.


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def spent(limits: Limits, tenant: str, requests: int = 1) -> float | None:
    """None if the call came in, else when to come again."""
    try:
        with limits.within(tenant, requests):
            return None
    except Overloaded as error:
        return error.retry_after_s


def test_a_rate_lets_a_burst_through_and_then_what_time_brings() -> None:
    clock = Clock()
    limits = Limits({"a": TenantLimits(rate_per_s=10, burst=5)}, now_s=clock)
    assert [spent(limits, "a") for _ in range(6)] == [None] * 5 + [pytest.approx(0.1)]
    clock.now_s += 0.25
    assert [spent(limits, "a") for _ in range(3)] == [None, None, pytest.approx(0.05)]
    clock.now_s += 1_000
    assert [spent(limits, "a") for _ in range(6)][4:] == [None, pytest.approx(0.1)]


def test_a_batch_counts_its_requests_and_one_beyond_the_burst_leaves_a_debt() -> None:
    clock = Clock()
    limits = Limits({"a": TenantLimits(rate_per_s=10, burst=5)}, now_s=clock)
    assert spent(limits, "a", 20) is None and spent(limits, "a") == pytest.approx(1.6)
    clock.now_s += 1.6
    assert spent(limits, "a") is None


def test_tenants_have_budgets_of_their_own_and_those_without_limits_none() -> None:
    limits = Limits({"*": TenantLimits(rate_per_s=1), "vip": TenantLimits()}, now_s=Clock())
    assert [spent(limits, tenant) for tenant in ("a", "a", "b", "vip", "vip")] == [None, pytest.approx(1.0), None, None, None]
    assert [spent(Limits({"a": TenantLimits(rate_per_s=1)}, now_s=Clock()), "b") for _ in range(3)] == [None] * 3


def test_calls_at_once_are_counted_until_they_end() -> None:
    limits = Limits({"a": TenantLimits(concurrent=2)}, now_s=Clock())
    with limits.within("a", 1), limits.within("a", 1):
        assert spent(limits, "a") == 0.05
    assert spent(limits, "a") is None


def test_names_that_callers_invent_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.door.limits._KEPT", 50)
    clock = Clock()
    limits = Limits({"*": TenantLimits(rate_per_s=1000, burst=1)}, now_s=clock)
    for number in range(150):
        clock.now_s += 0.01
        assert spent(limits, f"invented{number}") is None
    assert len(limits._budgets) <= 50
    spent(limits, "known")
    assert spent(limits, "known") is not None, "one that is in use is kept"


def test_beyond_its_limit_a_tenant_is_told_when_to_come_again_and_others_are_served(tmp_path: Path, front: str) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for task in (TASK, RANKED):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    with (
        serving_from(tmp_path, folder, front=front, tenants={"default": {"rate_per_s": 0.01, "burst": 1}}) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        call = channel.unary_unary(f"{POLICY}Select")
        mine, theirs = (messages_of(tenant)[f"{POLICY}Select"].SerializeToString() for tenant in ("default", "other"))
        call(mine, timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            call(mine, timeout=10)
        assert all(call(theirs, timeout=10) for _ in range(3))
    status, retry = rpc_status.from_call(caught.value), error_details_pb2.RetryInfo()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert any(detail.Unpack(retry) for detail in status.details) and 90 < retry.retry_delay.seconds <= 100


def test_without_tokens_and_limits_there_is_no_door(tmp_path: Path, tasks: Path) -> None:
    server = Server(ServerConfig(address="127.0.0.1:0"), tasks={}, store=tmp_path / "store", logs=tmp_path / "logs")
    assert server._door is None and isinstance(Door(tokens=None, limits=None), Door)
    server.drain()
