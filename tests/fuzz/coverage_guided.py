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
    from protos.framing import records
    from protos.policy_pb2 import SelectRequest
    from protos.task import TaskFile
    from serving.errors import RequestRefused
    from serving.plain import PlainReaders, PlainRequest
    from serving.tasks import parse_rules
    from serving.validate import validate

_FEATURES = {"context": [{"name": "weights", "size": 3}, {"name": "word", "type": "category", "buckets": 8}], "actions": list("abcde")}
_SECTIONS = {"features": _FEATURES, "policy": {"name": "uniform"}}
_RULES = parse_rules(TaskFile(name="shop", tenant="default", sections=_SECTIONS, digest="0" * 64))
_READERS = PlainReaders({_RULES.key: SimpleNamespace(rules=_RULES)}, new_request_id=lambda: "drawn")


def read_both_ways(data: bytes) -> None:
    """A request that is read as plain is what protobuf and `validate` make of it."""
    found = _READERS.one(data)
    if isinstance(found, PlainRequest):
        message = SelectRequest.FromString(data)
        wanted = validate(message, _RULES, request_id="" if message.request_id else "drawn")
        assert found.selection._replace(candidates=wanted.candidates) == wanted, found
        assert found.selection.candidates.actions == wanted.candidates.actions, found


class Target(NamedTuple):
    """What is given bytes, and what it may raise."""

    take: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]


TARGETS = {
    "requests": Target(lambda data: validate(SelectRequest.FromString(data), _RULES), (DecodeError, RequestRefused)),
    "plain": Target(read_both_ways, (DecodeError,)),
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
