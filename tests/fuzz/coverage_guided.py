"""Coverage-guided fuzzing with atheris: `coverage_guided.py TARGET [libFuzzer flags]`; `make fuzz` runs every target for a minute.

A target is a decoder with the errors that it may raise. Anything else that it raises, or a hang of more than a second, ends the run
with the input that did it.
"""

import contextlib
import hashlib
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import atheris

with atheris.instrument_imports(include=["serving", "protos", "bandits.snapshots", "bandits.features"]):
    from google.protobuf.message import DecodeError

    from bandits.errors import BanditsError
    from bandits.snapshots import decode_manifest
    from protos.events_pb2 import CandidateSet
    from protos.framing import records
    from protos.policy_pb2 import Context, SelectRequest
    from protos.task import TaskFile
    from serving.alike import read_alike
    from serving.errors import RequestRefused
    from serving.plain import PlainReaders, PlainRequest
    from serving.tasks import parse_rules
    from serving.validate import validate
    from serving.wire import length_delimited

_FEATURES = {"context": [{"name": "weights", "size": 3}, {"name": "word", "type": "category", "buckets": 8}], "actions": list("abcde")}
_SECTIONS = {"features": _FEATURES, "policy": {"name": "uniform"}}
_RULES = parse_rules(TaskFile(name="shop", tenant="default", sections=_SECTIONS, digest="0" * 64))
_READERS = PlainReaders({_RULES.key: SimpleNamespace(rules=_RULES)}, new_request_id=lambda: "drawn")


_CONTEXT = Context(packed=bytes(4 * _RULES.context_size), schema_digest=_RULES.schema_digest)
_CHOICE = CandidateSet(actions=["a", "b", "c"])
_PLAIN = SelectRequest(
    task="shop", unit_id="unit", request_id="own", context=_CONTEXT, candidates=_CHOICE, slate_size=2
).SerializeToString()


def read_both_ways(data: bytes) -> None:
    """A request that is read as plain is what protobuf and `validate` make of it."""
    found = _READERS.one(data)
    if isinstance(found, PlainRequest):
        message = SelectRequest.FromString(data)
        wanted = validate(message, _RULES, request_id="" if message.request_id else "drawn")
        assert found.selection._replace(candidates=wanted.candidates) == wanted, found
        assert found.selection.candidates.actions == wanted.candidates.actions, found


def read_together(data: bytes) -> None:
    """Requests that are read as alike are what each of them is by itself. The data stands among others: changed by it, byte by byte."""
    changed = bytes(own ^ other for own, other in zip(_PLAIN, data.ljust(len(_PLAIN), b"\0"), strict=False)) + data[len(_PLAIN) :]
    batch = b"".join(length_delimited(b"\x0a", body) for body in (_PLAIN, _PLAIN, changed, _PLAIN, _PLAIN))
    found = read_alike(_READERS, batch)
    if found is not None:
        for place, one in enumerate(_READERS.batch(batch)):
            assert isinstance(one, PlainRequest), one
            own = (found.units[place].decode(), found.contexts[place], found.features[place])
            assert own == (one.selection.unit_id, one.selection.context, one.selection.features), one
            assert one.selection.slate_size == found.first.slate_size, one
            assert one.selection.candidates.actions == found.first.candidates.actions, one
            assert not found.request_ids or found.request_ids[place].decode() == one.selection.request_id, one


class Target(NamedTuple):
    """What is given bytes, and what it may raise."""

    take: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]


TARGETS = {
    "requests": Target(lambda data: validate(SelectRequest.FromString(data), _RULES), (DecodeError, RequestRefused)),
    "plain": Target(read_both_ways, (DecodeError,)),
    "alike": Target(read_together, ()),
    "manifests": Target(lambda data: decode_manifest(hashlib.sha256(data).hexdigest(), data), (BanditsError,)),
    "records": Target(lambda data: list(records(data, base=0, whole=True)), ()),
}


def main() -> None:
    """Fuzzes one target until libFuzzer's flags say stop."""
    target = TARGETS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        with contextlib.suppress(*target.allowed):
            target.take(data)

    atheris.Setup([*sys.argv, "-timeout=1", "-rss_limit_mb=4096"], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
