"""`ope gate`, `promote`, `rollback`, `report` and `verdicts`: the store's champion, moved by evidence."""

import getpass
import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bandits.store import Store
from ope.errors import GateError, SourceError, VerdictError
from ope.gate_config import GateConfig, gate_config
from ope.promotion import promote as promote_by
from ope.report import report_html
from ope.verdict import Verdict, from_mapping, to_mapping
from ope.watch import Watch, now_us, write_reports
from protos import config as configs
from protos.task import TaskFile, load_task

__all__ = ["gate", "promote", "report", "rollback", "verdicts"]

EXIT_CODES = {"promote": 0, "hold": 1, "veto": 2}

StoreOption = Annotated[Path, typer.Option("--store", help="Root of the policy store.")]
TaskOption = Annotated[str, typer.Option("--task", help="Name of the task.")]
ConfigOption = Annotated[Path, typer.Option("--task-config", help="The task's YAML file; the gate is its section `gate`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def gate(
    task_config: ConfigOption,
    store: StoreOption = Path("var/store"),
    observations: Annotated[Path, typer.Option(help="The observations table (Delta).")] = Path("var/observations"),
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again; keep verdicts, promote and close challengers.")] = False,
    poll_s: Annotated[float, typer.Option(help="With --watch: seconds between looks, > 0.")] = 1.0,
    reports: Annotated[
        Path | None, typer.Option(help="Folder for the verdict as JSON and HTML; with --watch the store's by default.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="gate.key=value, laid over the file; repeatable.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show every value of the gate with its origin, and end.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Judges the open challenger against the champion on the same logged rows. Exit code: 0 promote, 1 hold, 2 veto, 3 error.

    One shot looks once, at the rows that are there, and changes nothing in the store.
    """
    task = load_task(task_config, overrides=overrides or ())
    config = gate_config(task)
    if print_config:
        _print_config(config, task, overrides or [], as_json=as_json)
        return 0
    looking = Watch(
        Store(store, task.name), task=task, config=config, observations=observations, reports=reports or store / task.name / "reports"
    )
    if watch:
        _keep_looking(looking, poll_s=poll_s, as_json=as_json)
        return 0
    return _look_once(looking, reports, task=task, as_json=as_json)


def promote(
    verdict: Annotated[str, typer.Argument(help="Id of a kept verdict, or a file of one.")],
    task: TaskOption,
    store: StoreOption = Path("var/store"),
    as_json: JsonOption = False,
) -> None:
    """Makes the challenger of a verdict `promote` the champion; any other verdict, or one older than the champion, is refused."""
    kept = Store(store, task)
    pointer = promote_by(kept, _read_verdict(kept, verdict), now_us=now_us(), actor=_operator())
    _say(f"champion of {task}: {pointer.digest}", pointer._asdict(), as_json=as_json)


def rollback(
    task: TaskOption,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
    store: StoreOption = Path("var/store"),
    as_json: JsonOption = False,
) -> None:
    """Restores the previous champion; the audit log quotes the verdict that is undone."""
    if not reason.strip():
        raise VerdictError("--reason: is empty; say why the champion goes back, for the audit log")
    pointer = Store(store, task).rollback(reason=reason, now_us=now_us(), actor=_operator())
    _say(f"champion of {task}: {pointer.digest}", pointer._asdict(), as_json=as_json)


def report(
    verdict: Annotated[Path, typer.Argument(help="JSON file of a verdict, as `ope gate` writes it.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("verdict.html"),
) -> None:
    """Writes a verdict as one self-contained HTML page."""
    page = report_html(from_mapping(_read_json(verdict)))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SourceError(f"--out: {out} cannot be written ({error}); give a file in a folder that exists") from error
    print(out)


def verdicts(task: TaskOption, store: StoreOption = Path("var/store"), as_json: JsonOption = False) -> None:
    """Lists the kept verdicts of a task, oldest first."""
    kept = Store(store, task)
    found = [(verdict_id, kept.verdict(verdict_id)) for verdict_id in kept.verdict_ids()]
    if as_json:
        print(json.dumps([{"id": verdict_id, **verdict} for verdict_id, verdict in found], indent=2))
        return
    table = Table("verdict", "decision", "challenger", "reason")
    for verdict_id, verdict in found:
        table.add_row(
            verdict_id[:12], str(verdict.get("decision")), str(verdict.get("challenger"))[:12], escape(" ".join(verdict["reasons"]))
        )
    Console().print(table)


def _look_once(looking: Watch, folder: Path | None, *, task: TaskFile, as_json: bool) -> int:
    verdict = looking.look(complete=True)
    if verdict is None:
        raise GateError(
            f"task {task.name!r}: no open challenger, no champion or no observations; see `bandits learn` and `attribution run`"
        )
    if folder is not None:
        write_reports(folder, name=f"{task.name}-{verdict.contest.challenger[:12]}", verdict=verdict)
    _tell(verdict, as_json=as_json)
    return EXIT_CODES[verdict.decision]


def _keep_looking(looking: Watch, *, poll_s: float, as_json: bool) -> None:
    """Looks until SIGTERM or SIGINT; a verdict in progress is brought to its end first."""
    if not poll_s > 0:
        raise GateError(f"--poll-s: {poll_s} is refused; give seconds > 0")
    stopped = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda *_: stopped.set())
    while not stopped.is_set():
        verdict = looking.look()
        if verdict is not None and verdict.decision != "wait" and looking.conclude(verdict) is not None:
            _tell(verdict, as_json=as_json)
        stopped.wait(poll_s)


def _tell(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_mapping(verdict), sort_keys=True), flush=True)
        return
    print(
        f"{verdict.decision}: {verdict.contest.kind} {verdict.contest.challenger[:12]} of {verdict.contest.task}, {verdict.rows} rows",
        flush=True,
    )
    for reason in verdict.reasons:
        print(f"  {reason}", flush=True)


def _print_config(config: GateConfig, task: TaskFile, flags: list[str], *, as_json: bool) -> None:
    rows = configs.provenance(config, given=task.section("gate"), flags=[flag.removeprefix("gate.") for flag in flags])
    if as_json:
        print(json.dumps([{"name": f"gate.{name}", "value": value, "origin": origin} for name, value, origin in rows], indent=2))
        return
    table = Table("name", "value", "origin")
    for name, value, origin in rows:
        table.add_row(f"gate.{name}", escape(str(value)), origin)
    Console().print(table)


def _read_verdict(store: Store, name: str) -> dict[str, Any]:
    path = Path(name)
    return _read_json(path) if path.suffix == ".json" else store.verdict(name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerdictError(f"{path}: no verdict can be read there ({error}); give a JSON file that `ope gate` wrote") from error
    if not isinstance(data, dict):
        raise VerdictError(f"{path}: holds {type(data).__name__}, not a verdict; give a JSON file that `ope gate` wrote")
    return data


def _operator() -> str:
    """Who moves the champion, for the audit log."""
    return os.environ.get("USER") or getpass.getuser()


def _say(text: str, data: dict[str, Any], *, as_json: bool) -> None:
    print(json.dumps(data) if as_json else text)
