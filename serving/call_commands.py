"""Single calls from the shell: one Select, one event of feedback."""

import json
import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from protos.command import refusing
from protos.errors import ProtosError
from serving import events
from serving.client import PolicyClient
from serving.errors import ServingError
from serving.fields import refused, shown

__all__ = ["register"]

Address = Annotated[str, typer.Option("--address", help="host:port of the server.")]
Unit = Annotated[str, typer.Option("--unit", help="Who is randomised: the caller's id.")]
Task = Annotated[str, typer.Argument(help="Name of the task.")]
DecisionId = Annotated[str, typer.Option("--decision", help="The decision's id in hex, as `serving select` prints it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
refuses = refusing(ServingError, ProtosError)

feedback = typer.Typer(no_args_is_help=True, help="Send one event: what was seen, what came of it, or that all has been sent.")


def register(app: typer.Typer) -> None:
    """Adds `select` and `feedback` to the room's command."""
    app.command()(select)
    app.add_typer(feedback, name="feedback")


@refuses
def select(
    task: Task,
    unit: Unit,
    address: Address = "127.0.0.1:50051",
    context: Annotated[str, typer.Option("--context", help='Named features as JSON, e.g. \'{"country": "de"}\', or @FILE.')] = "{}",
    candidate: Annotated[list[str], typer.Option("--candidate", help="Id of an action; repeatable. None = the task's catalogue.")] = [],  # noqa: B006
    slate_size: Annotated[int | None, typer.Option("--slate-size", help="Slots to fill; the task's own where not given.")] = None,
    request_id: Annotated[str, typer.Option("--request-id", help="Idempotency key; drawn at random where not given.")] = "",
    explain: Annotated[bool, typer.Option("--explain", help="Ask for the reasons too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for one slate."""
    features = _json_object(context)
    with PolicyClient(address) as client:
        answer = client.select(
            task, unit_id=unit, context=features, candidates=candidate, slate_size=slate_size, request_id=request_id, explain=explain
        )
    if as_json:
        print(json.dumps({**MessageToDict(answer, preserving_proto_field_name=True), "decision_id": answer.decision_id.hex()}, indent=1))
        return
    print(f"decision {answer.decision_id.hex()}  by {answer.policy} {answer.snapshot_digest[:12]}")
    for place, slot in enumerate(answer.slots):
        print(f"slot {place}: {slot.action}  propensity {slot.propensity:.6f}  score {slot.score:.4f}")


@feedback.command()
@refuses
def impression(task: Task, unit: Unit, decision: DecisionId, address: Address = "127.0.0.1:50051") -> None:
    """The whole slate of a decision was seen just now."""
    _send(address, events.impression(task, decision_id=_id(decision), unit_id=unit, **_origin()))


@feedback.command()
@refuses
def reward(
    task: Task,
    unit: Unit,
    decision: DecisionId,
    name: Annotated[str, typer.Option("--name", help="Name of the outcome, as in the task's rewards.")],
    value: Annotated[float, typer.Option("--value", help="Its value, in the outcome's own unit.")],
    slot: Annotated[int | None, typer.Option("--slot", help="Slot it belongs to, 0 = top; the whole slate where not given.")] = None,
    address: Address = "127.0.0.1:50051",
) -> None:
    """A named outcome happened just now."""
    _send(address, events.reward(task, decision_id=_id(decision), unit_id=unit, name=name, value=value, slot=slot, **_origin()))


@feedback.command()
@refuses
def signal(
    unit: Unit,
    name: Annotated[str, typer.Option("--name", help="Name of the signal.")],
    value: Annotated[float | None, typer.Option("--value", help="Its value; none = it happened.")] = None,
    address: Address = "127.0.0.1:50051",
) -> None:
    """Something else happened to a unit just now."""
    _send(address, events.signal(unit_id=unit, name=name, value=value, **_origin()))


@feedback.command()
@refuses
def heartbeat(
    source: Annotated[str, typer.Argument(help="Stream that speaks: decisions, impressions, rewards or signals.")],
    final: Annotated[bool, typer.Option("--final", help="Nothing will follow.")] = False,
    address: Address = "127.0.0.1:50051",
) -> None:
    """Everything of a stream up to now has been sent."""
    _send(address, events.heartbeat(source, event_time_us=_now_us(), final=final))


def _send(address: str, event: Any) -> None:
    with PolicyClient(address) as client:
        print(f"accepted: {client.send_feedback([event])}")


def _json_object(text: str) -> dict[str, Any]:
    try:
        loaded = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (ValueError, OSError) as error:
        raise refused("--context", f"{shown(text)} is no JSON ({error}); give an object of named features, or @FILE") from error
    if not isinstance(loaded, dict):
        raise refused("--context", f"{shown(text)} is no JSON object; give named features, e.g. {{}}")
    return loaded


def _id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise refused("--decision", f"{shown(text)} is not hex; give the 32 digits that `serving select` prints") from error


def _origin() -> events.Origin:
    return events.Origin(event_id=secrets.token_hex(16), event_time_us=_now_us())


def _now_us() -> int:
    return time.time_ns() // 1000
