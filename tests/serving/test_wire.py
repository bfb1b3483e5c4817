"""What is written by hand is what protobuf writes, and a record is read back as the message that it stands for."""

from pathlib import Path

import pytest

from protos.events_pb2 import CandidateSet, Decision, Event, Slot
from protos.policy_pb2 import SelectResponse
from serving.decision_log import decision_payloads
from serving.wire import double, length_delimited, slot_numbers, varint
from tests.serving.kit import select_request
from tests.serving.test_engine_draws import shop as running_shop

EDGES = [0, 1, 127, 128, 300, 16_383, 16_384, (1 << 28) - 1, 1 << 28, 1 << 31]


@pytest.mark.parametrize("number", EDGES)
def test_a_slot_by_hand_is_a_slot(number: int) -> None:
    slot = Slot(
        action="ä" * number if number < 300 else "x", numerator=number, propensity=number / 2**31, score=-0.25, value=1.5, density=2.0
    )
    by_hand = length_delimited(b"\x0a", slot.action.encode()) + slot_numbers(number, slot.propensity, slot.score)
    assert Slot.FromString(by_hand + double(b"\x29", 1.5) + double(b"\x31", 2.0)) == slot


@pytest.mark.parametrize("number", [*EDGES, 1_700_000_000_000_000, (1 << 63) - 1])
def test_times_are_read_back(number: int) -> None:
    assert Event.FromString(b"\x78" + varint(number)).append_time_us == number
    (payload,) = decision_payloads([Decision(unit_id="u").SerializeToString()], number)
    assert Event.FromString(payload) == Event(decision=Decision(unit_id="u", event_time_us=number), append_time_us=number)


def test_a_record_and_its_answer_say_the_same_and_all_that_was_asked(tmp_path: Path) -> None:
    running = running_shop(tmp_path / "wire")
    given = CandidateSet(actions=["a", "new", "c", "d"], eligible=[True, True, False, True], scores=[1.0, 2.0, 3.0, 4.0])
    request = select_request(running.policy, unit="ü", request_id="r", candidates=given, slate_size=2, parent_decision_id=bytes(range(16)))
    (response,) = running.select([request])
    (decision,) = running.decisions
    assert isinstance(response, SelectResponse) and decision.candidates == given and list(decision.slots) == list(response.slots)
    assert (decision.unit_id, decision.request_id, decision.parent_decision_id) == ("ü", "r", request.parent_decision_id)
    assert decision.context == request.context.packed and decision.decision_id == response.decision_id
    for field in ("policy", "snapshot_digest", "arm", "arm_probability", "fallback", "request_id"):
        assert getattr(decision, field) == getattr(response, field)
    about = (decision.tenant, decision.task, decision.config_digest, decision.schema_digest, decision.draw_by)
    assert about == ("default", "shop", running.policy.config_digest, running.policy.schema.digest, "decision")
    # Nothing that a reader of the messages would not know.
    assert Decision.FromString(decision.SerializeToString()).SerializeToString() == decision.SerializeToString()
    assert response.arm_probability == 1.0 and decision.bucket_batch == 1 and decision.bucket_candidates == 8
