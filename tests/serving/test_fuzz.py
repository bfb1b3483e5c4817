"""Whatever arrives: only the codes that the API allows, never a bug, and the server answers the next sound request."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandits.config import TaskPolicy
from bandits.errors import SnapshotError
from bandits.snapshots import decode
from bandits.store import Store
from protos.events_pb2 import CandidateSet
from protos.framing import Damage, Record, frame, records
from protos.policy_pb2 import AssignRequest, Context, FeedbackRequest, GetPolicyRequest, SelectBatchRequest, SelectRequest
from serving.client import PolicyClient
from serving.server import Server
from tests.serving.kit import FRONTS, publish, select_request, serving_from

ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED"}
METHODS: dict[str, Callable[[bytes], Any]] = {
    "Select": SelectRequest.FromString,
    "SelectBatch": SelectBatchRequest.FromString,
    "Assign": AssignRequest.FromString,
    "Feedback": FeedbackRequest.FromString,
    "GetPolicy": GetPolicyRequest.FromString,
}
# The same examples in every run; a longer search runs in `make fuzz`.
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> Iterator[Server]:
    with serving_from(tmp_path_factory.mktemp("fuzz"), tasks, front=request.param, max_message_bytes=1 << 16) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as found:
        yield found


def code_of(channel: grpc.Channel, method: str, body: bytes) -> str:
    try:
        channel.unary_unary(f"/slateloop.v1.PolicyService/{method}")(body, timeout=20)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def floats() -> st.SearchStrategy[bytes]:
    """Packed numbers of all kinds, and lengths that are none."""
    numbers = st.lists(st.floats(width=32), max_size=6).map(lambda values: b"".join(struct.pack("<f", value) for value in values))
    return st.one_of(numbers, st.binary(max_size=20))


def texts() -> st.SearchStrategy[str]:
    return st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=140)


def contexts() -> st.SearchStrategy[Context]:
    return st.builds(Context, packed=floats(), schema_digest=st.one_of(st.just(""), texts()))


def candidate_sets() -> st.SearchStrategy[CandidateSet]:
    return st.builds(
        CandidateSet,
        actions=st.lists(st.sampled_from([*"abcde", "z", "", "x" * 129]), max_size=9),
        catalogue=st.sampled_from(["", "default", "other"]),
        eligible=st.lists(st.booleans(), max_size=6),
        packed_features=floats(),
        scores=st.lists(st.floats(), max_size=6),
    )


SELECTS = st.builds(
    SelectRequest,
    tenant=st.sampled_from(["", "default", "other"]),
    task=st.sampled_from(["shop", "ranked", "", "x"]),
    unit_id=texts(),
    request_id=st.one_of(st.just(""), texts()),
    context=contexts(),
    candidates=candidate_sets(),
    slate_size=st.integers(0, 2**32 - 1),
    explain=st.booleans(),
    parent_decision_id=st.binary(max_size=17),
    snapshot_digest=st.sampled_from(["", "0" * 64, "x"]),
)


@FUZZ
@given(method=st.sampled_from(sorted(METHODS)), body=st.binary(max_size=200))
def test_bytes_are_answered_by_an_allowed_code(channel: grpc.Channel, method: str, body: bytes) -> None:
    assert code_of(channel, method, body) in ALLOWED


@FUZZ
@given(request=SELECTS)
def test_requests_of_every_shape_are_answered_by_an_allowed_code(
    channel: grpc.Channel, server: Server, shop: TaskPolicy, request: SelectRequest
) -> None:
    assert code_of(channel, "Select", request.SerializeToString()) in ALLOWED
    sound = SelectRequest.FromString(request.SerializeToString())
    if sound.HasField("context") and sound.task == "shop":
        sound.context.schema_digest = shop.schema.digest
        assert code_of(channel, "Select", sound.SerializeToString()) in ALLOWED


def test_after_all_of_it_a_sound_request_is_answered(server: Server, shop: TaskPolicy) -> None:
    with PolicyClient(server.address) as client:
        assert client.send_select(select_request(shop)).logged


@FUZZ
@given(payloads=st.lists(st.binary(min_size=1, max_size=60), max_size=6), at=st.integers(0, 400), change=st.integers(1, 255))
def test_a_changed_byte_of_a_log_costs_at_most_the_record_that_it_stands_in(payloads: list[bytes], at: int, change: int) -> None:
    sound = b"".join(map(frame, payloads))
    if not sound:
        return
    data = bytearray(sound)
    data[at % len(data)] ^= change
    found = list(records(bytes(data), base=0, whole=True))
    kept = [item.payload for item in found if isinstance(item, Record)]
    assert len(kept) >= len(payloads) - 1 and set(kept) <= {*payloads, *kept} and any(isinstance(item, Damage) for item in found)


@FUZZ
@given(data=st.binary(max_size=300))
def test_a_log_of_any_bytes_is_read_to_its_end(data: bytes) -> None:
    for item in records(data, base=0, whole=True):
        assert item.end <= len(data)
        if isinstance(item, Record):
            assert item.payload


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> tuple[str, dict[str, bytes]]:
    """A sound snapshot in memory."""
    from bandits.config import parse_task
    from protos.task import load_task

    shop = parse_task(load_task(tasks / "shop.yaml"))
    store = Store(tmp_path_factory.mktemp("fuzz-store"), "shop")
    digest = publish(store, shop, seed=1)
    return digest, {path.name: path.read_bytes() for path in store.snapshot_dir(digest).iterdir()}


@FUZZ
@given(data=st.data())
def test_a_snapshot_with_any_change_is_refused(files: tuple[str, dict[str, bytes]], data: st.DataObject) -> None:
    digest, sound = files
    name = data.draw(st.sampled_from(sorted(sound)))
    text = sound[name]
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "gone", "renamed"]))
    place = data.draw(st.integers(0, len(text) - 1))
    changed = dict(sound)
    if kind == "flip":
        changed[name] = text[:place] + bytes([text[place] ^ (1 << data.draw(st.integers(0, 7)))]) + text[place + 1 :]
    elif kind == "cut":
        changed[name] = text[:place]
    elif kind == "grow":
        changed[name] = text + b"x"
    else:
        del changed[name]
        if kind == "renamed":
            changed[f"{name}.old"] = text
    with pytest.raises(SnapshotError):
        decode(digest, changed)
