"""The generated code is what the .proto files give, and no field number ever changes its meaning."""

import importlib.resources
import json
import shutil
import sys
from pathlib import Path

import grpc_tools.protoc
import pytest
from google.protobuf.descriptor import Descriptor

from protos import admin_pb2, events_pb2, policy_pb2

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = Path(__file__).with_name("field_numbers.json")
# events.proto defines no service: a module for its stubs would be empty.
GENERATED = ["events_pb2.py", "events_pb2.pyi"]
GENERATED += [f"{name}_{end}" for name in ("policy", "admin") for end in ("pb2.py", "pb2.pyi", "pb2_grpc.py")]


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    (out / "protos").mkdir()
    for path in (ROOT / "protos").glob("*.proto"):
        shutil.copy(path, out / "protos")
    include = str(importlib.resources.files("grpc_tools") / "_proto")
    common = ["protoc", f"-I{out}", f"-I{include}"]
    stubs = f"--plugin=protoc-gen-mypy={Path(sys.executable).with_name('protoc-gen-mypy')}"
    services = ["protos/policy.proto", "protos/admin.proto"]
    assert grpc_tools.protoc.main([*common, stubs, f"--python_out={out}", f"--mypy_out={out}", "protos/events.proto", *services]) == 0
    assert grpc_tools.protoc.main([*common, f"--grpc_python_out={out}", *services]) == 0
    return out / "protos"


@pytest.mark.parametrize("name", GENERATED)
def test_the_committed_code_is_what_the_generator_gives(regenerated: Path, name: str) -> None:
    assert (regenerated / name).read_bytes() == (ROOT / "protos" / name).read_bytes(), "run `make proto` and commit the result"


def test_no_other_generated_code_is_committed() -> None:
    assert sorted(path.name for path in (ROOT / "protos").glob("*_pb2*")) == sorted(GENERATED)


def messages(descriptor: Descriptor) -> dict[str, dict[str, int]]:
    own = {descriptor.full_name: {field.name: field.number for field in descriptor.fields}}
    for nested in descriptor.nested_types:
        own |= messages(nested)
    return own


def numbers() -> dict[str, dict[str, int]]:
    """Message or enum -> name -> number."""
    found: dict[str, dict[str, int]] = {}
    for module in (events_pb2, policy_pb2, admin_pb2):
        for message in module.DESCRIPTOR.message_types_by_name.values():
            found |= messages(message)
        for enum in module.DESCRIPTOR.enum_types_by_name.values():
            found[enum.full_name] = {value.name: value.number for value in enum.values}
    return found


def reused(before: dict[str, dict[str, int]], now: dict[str, dict[str, int]]) -> list[str]:
    """Names whose number changed and numbers that another name has taken; new names and messages are free."""
    faults = []
    for message, fields in before.items():
        if message not in now:
            faults.append(f"{message} is gone")
            continue
        taken = {number: name for name, number in now[message].items()}
        for name, number in fields.items():
            if now[message].get(name, number) != number or taken.get(number, name) != name:
                faults.append(f"{message}: number {number} was {name}")
    return faults


def test_a_number_keeps_its_meaning_for_good() -> None:
    """field_numbers.json only grows: a field that is dropped stays in it, reserved."""
    recorded = json.loads(NUMBERS.read_text())
    assert reused(recorded, numbers()) == []
    unrecorded = {f"{message}.{name}" for message, fields in numbers().items() for name in fields if name not in recorded.get(message, {})}
    assert unrecorded == set(), f"add them to {NUMBERS.name}"


def test_a_number_that_is_used_again_is_found() -> None:
    before = {"M": {"a": 1, "b": 2}}
    assert reused(before, {"M": {"a": 1, "c": 3}}) == []
    assert reused(before, {"M": {"a": 2, "b": 1}}) == ["M: number 1 was a", "M: number 2 was b"]
    assert reused(before, {"M": {"a": 1, "c": 2}}) == ["M: number 2 was b"]
    assert reused(before, {}) == ["M is gone"]


def test_every_enum_starts_at_unspecified() -> None:
    enums = [enum for module in (events_pb2, policy_pb2) for enum in module.DESCRIPTOR.enum_types_by_name.values()]
    assert enums and all(enum.values[0].number == 0 and enum.values[0].name.endswith("_UNSPECIFIED") for enum in enums)


OPTIONAL = [("Reward", "value"), ("Reward", "slot"), ("Signal", "value"), ("Slot", "score"), ("Slot", "value"), ("Slot", "density")]


@pytest.mark.parametrize("field", OPTIONAL, ids=".".join)
def test_where_zero_is_a_value_absence_is_told_apart(field: tuple[str, str]) -> None:
    message = getattr(events_pb2, field[0])()
    assert not message.HasField(field[1])
    setattr(message, field[1], 0)
    assert type(message).FromString(message.SerializeToString()).HasField(field[1])
