"""What a server tells besides its answers: spans through OpenTelemetry's API alone, and its log as JSON."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from bandits.config import TaskPolicy
from protos.policy_pb2 import GetPolicyRequest, SelectRequest
from serving import tracing
from serving.calls import CallHandler, Method
from serving.errors import NotReady, RequestRefused
from serving.observers import Observer
from serving.server import Server
from tests.serving.kit import ROOT, select_request

NAME = "/slateloop.v1.PolicyService/Select"


class Span:
    """Remembers what it is told."""

    def __init__(self, name: str, parent: Any, kind: SpanKind, attributes: Mapping[str, Any]) -> None:
        self.name, self.kind, self.attributes = name, kind, dict(attributes)
        self.parent = trace.get_current_span(parent).get_span_context()
        self.status: Any = None
        self.ended = 0

    def set_attribute(self, name: str, value: Any) -> None:
        self.attributes[name] = value

    def set_status(self, status: Any) -> None:
        self.status = status.status_code

    def end(self) -> None:
        self.ended += 1


class KeepingProvider:
    """As an SDK would stand behind the API."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def get_tracer(self, name: str, *_: Any, **__: Any) -> "KeepingProvider":
        assert name == "slateloop.serving"
        return self

    def start_span(self, name: str, context: Any = None, kind: Any = None, attributes: Any = None) -> Span:
        self.spans.append(Span(name, context, kind, attributes))
        return self.spans[-1]


class Context:
    """A call as grpc shows it."""

    def __init__(self, **metadata: str) -> None:
        self._metadata = tuple(metadata.items())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def time_remaining(self) -> None:
        return None

    def abort_with_status(self, status: Any) -> None:
        raise grpc.RpcError(status.details)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeepingProvider]:
    found = KeepingProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: found)
    monkeypatch.setattr(tracing.trace, "get_tracer", found.get_tracer)
    yield found


def called(answer: Any, **metadata: str) -> None:
    """One call through the handler."""
    handler = CallHandler(
        {NAME: Method(SelectRequest.FromString, answer)}, deadline_cap_s=1.0, max_streams=0, new_error_id=lambda: "id", observer=Observer()
    )
    arrived: Any = type("Details", (), {"method": NAME, "invocation_metadata": ()})
    handler.service(arrived).unary_unary(SelectRequest(unit_id="member-1").SerializeToString(), Context(**metadata))


def raising(error: Exception) -> Any:
    def answer(_: SelectRequest) -> bytes:
        raise error

    return answer


def test_a_call_is_a_span_below_the_callers(provider: KeepingProvider) -> None:
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    called(lambda _: b"", traceparent=parent)
    (span,) = provider.spans
    assert (span.name, span.kind, span.ended, span.status) == ("slateloop.v1.PolicyService/Select", SpanKind.SERVER, 1, None)
    assert span.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "slateloop.v1.PolicyService",
        "rpc.method": "Select",
        "rpc.grpc.status_code": 0,
    }
    assert (f"{span.parent.trace_id:x}", f"{span.parent.span_id:x}") == ("a" * 32, "b" * 16)


@pytest.mark.parametrize(
    ("error", "number", "status"),
    [
        (RequestRefused("unit_id: x", field="unit_id"), 3, None),
        (NotReady("task: x"), 14, StatusCode.ERROR),
        (ValueError("x"), 13, StatusCode.ERROR),
    ],
)
def test_a_refusal_is_the_callers_fault_and_the_rest_are_errors(
    error: Exception, number: int, status: StatusCode | None, provider: KeepingProvider
) -> None:
    with pytest.raises(grpc.RpcError):
        called(raising(error))
    (span,) = provider.spans
    assert (span.attributes["rpc.grpc.status_code"], span.status, span.ended) == (number, status, 1)
    assert not span.parent.is_valid and "member-1" not in str(vars(span))


def test_a_call_of_a_server_is_a_span_below_the_callers_on_either_front(
    provider: KeepingProvider, start_server: Callable[..., Server], shop: TaskPolicy
) -> None:
    server, parent = start_server(), "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with grpc.insecure_channel(server.address) as channel:
        for method, body in (("Select", select_request(shop)), ("GetPolicy", GetPolicyRequest(task="shop"))):
            call = channel.unary_unary(f"/slateloop.v1.PolicyService/{method}")
            assert call(body.SerializeToString(), metadata=(("traceparent", parent),), timeout=20)
    server.drain()
    assert [span.attributes["rpc.method"] for span in provider.spans] == ["Select", "GetPolicy"]
    for span in provider.spans:
        assert (span.ended, span.attributes["rpc.grpc.status_code"]) == (1, 0)
        assert (f"{span.parent.trace_id:x}", f"{span.parent.span_id:x}") == ("a" * 32, "b" * 16)


def test_without_an_sdk_no_span_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing.trace, "get_tracer", lambda *_: pytest.fail("a tracer was asked for"))
    assert not tracing.CallSpan.wanted()
    called(lambda _: b"")


def test_every_line_of_the_servers_log_is_a_json_object() -> None:
    code = """
import logging
from serving.json_logs import log_as_json
log_as_json()
logging.getLogger("serving.snapshots").info("task %s: %s decides now", "shop", "abc")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("serving.calls").exception("error %s\\nin two lines", "id-1")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = map(json.loads, ended.stderr.splitlines())
    assert {"event": "task shop: abc decides now", "level": "info", "logger": "serving.snapshots"}.items() <= first.items()
    assert first["timestamp"].endswith("Z") and second["level"] == "error" and second["event"] == "error id-1\nin two lines"
    assert "ZeroDivisionError: division by zero" in second["exception"]


@pytest.mark.slow
def test_the_servers_own_lines_are_json_where_that_is_wished(tmp_path: Path, tasks: Path, compilation_cache: Path, front: str) -> None:
    (tmp_path / "tasks").mkdir()
    # The task whose policy compiles at once.
    shutil.copy(tasks / "ranked.yaml", tmp_path / "tasks")
    command = [
        sys.executable,
        "-m",
        "serving",
        "serve",
        "--tasks",
        str(tmp_path / "tasks"),
        "--store",
        str(tmp_path / "store"),
        "--json-logs",
        "--front",
        front,
    ]
    command += ["--logs", str(tmp_path / "logs"), "--address", "127.0.0.1:0", "--compilation-cache", str(compilation_cache)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("serving: ")
    process.terminate()
    _, log = process.communicate(timeout=60)
    lines = [json.loads(line) for line in log.splitlines()]
    assert process.returncode == 0 and {line["level"] for line in lines} == {"info"}
    assert any(line["event"].startswith("task ranked: warm after") for line in lines) and all("timestamp" in line for line in lines)
