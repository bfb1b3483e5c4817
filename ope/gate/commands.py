"""`ope gate`, `promote`, `rollback`, `report`, `rerun` and `verdicts`: the store's champion, moved by evidence."""

import getpass
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bandits.store import Store
from ope.errors import GateError, SourceError, VerdictError
from ope.gate.config import GateConfig, gate_config
from ope.gate.open_bandit import gate_open_bandit
from ope.gate.promotion import promote as promote_by
from ope.gate.report import report_html
from ope.gate.rerun import rerun as rerun_verdict
from ope.gate.verdict import Verdict, from_mapping, to_json, to_mapping
from ope.gate.watch import Watch, now_us, write_reports
from protos import config as configs
from protos.command import until_signalled
from protos.task import TaskFile, load_task

__all__ = ["gate", "promote", "report", "rerun", "rollback", "verdicts"]

EXIT_CODES = {"promote": 0, "hold": 1, "veto": 2}

StoreOption = Annotated[Path, typer.Option("--store", help="Root of the policy store.")]
TaskOption = Annotated[str, typer.Option("--task", help="Name of the task.")]
ConfigOption = Annotated[Path, typer.Option("--task-config", help="The task's YAML file; the gate is its section `gate`.")]
ObservationsOption = Annotated[Path, typer.Option(help="The observations table (Delta).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def gate(
    task_config: Annotated[Path | None, typer.Option("--task-config", help="The task's YAML file; the gate is its section `gate`.")] = None,
    store: StoreOption = Path("var/store"),
    observations: ObservationsOption = Path("var/observations"),
    account: Annotated[
        Path | None,
        typer.Option(
            help="Output of `attribution status --json`, for lost decisions. Without it they are counted in the table `events` beside the "
            "observations."
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Digest of a published snapshot; repeatable: several share the level, the best is promoted.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Judge on an Open Bandit log instead: a folder of the policy that logged.")] = None,
    target: Annotated[
        str, typer.Option(help="With --log, the candidate: `uniform`, another log's folder, or a CSV of item_id, position, probability.")
    ] = "uniform",
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again; keep verdicts, promote, close, follow up, roll back.")
    ] = False,
    poll_s: Annotated[float, typer.Option(help="With --watch: seconds between looks, > 0.")] = 1.0,
    reports: Annotated[
        Path | None, typer.Option(help="Folder for the verdict as JSON and HTML; with --watch the store's by default.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="gate.key=value, laid over the file; repeatable.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show every value of the gate with its origin, and end.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Judges the open challenger against the champion on the same logged rows. Exit code: 0 promote, 1 hold, 2 veto, 3 error.

    One shot looks once, at the rows that are there; it moves nothing, but the store remembers the look and the config that was declared.
    """
    if log is not None:
        return _judge_log(log, target, reports, task_config, overrides or [], as_json=as_json)
    if task_config is None:
        raise GateError("--task-config: not given; name the task's file, or a log with --log")
    task = load_task(task_config, overrides=overrides or ())
    config = gate_config(task)
    if print_config:
        _print_config(config, task, overrides or [], as_json=as_json)
        return 0
    kept, folder = Store(store, task.name), reports or store / task.name / "reports"
    looking = Watch(kept, task=task, config=config, observations=observations, reports=folder, account=account)
    if watch:
        _keep_looking(looking, poll_s=poll_s, as_json=as_json)
        return 0
    if candidate:
        return _tell_all(looking.family(candidate), reports, as_json=as_json)
    return _look_once(looking, reports, task=task, as_json=as_json)


def promote(
    verdict: Annotated[str, typer.Argument(help="Id of a kept verdict, or a file of one.")],
    task: TaskOption,
    store: StoreOption = Path("var/store"),
    as_json: JsonOption = False,
) -> None:
    """Gives the challenger of a verdict `promote` its share, or the champion's place; any other, overridden or older verdict is refused."""
    kept = Store(store, task)
    pointer = promote_by(kept, _read_verdict(kept, verdict), now_us=now_us(), actor=_operator())
    staged = f"; {pointer.share:.0%} of the units: {pointer.challenger}" if pointer.challenger else ""
    _say(f"champion of {task}: {pointer.digest}{staged}", pointer._asdict(), as_json=as_json)


def rollback(
    task: TaskOption,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
    store: StoreOption = Path("var/store"),
    as_json: JsonOption = False,
) -> None:
    """Ends a staged promotion, or restores the previous champion; the audit log quotes the verdict that is undone."""
    if not reason.strip():
        raise VerdictError("--reason: is empty; say why the champion goes back, for the audit log")
    pointer = Store(store, task).rollback(reason=reason, now_us=now_us(), actor=_operator())
    _say(f"champion of {task}: {pointer.digest}", pointer._asdict(), as_json=as_json)


def report(
    verdict: Annotated[Path, typer.Argument(help="JSON file of a verdict, as `ope gate` writes it.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("verdict.html"),
    as_json: JsonOption = False,
) -> None:
    """Writes a verdict as one self-contained HTML page."""
    page = report_html(from_mapping(_read_json(verdict)))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SourceError(f"--out: {out} cannot be written ({error}); give a file in a folder that exists") from error
    _say(str(out), {"report": str(out)}, as_json=as_json)


def rerun(
    verdict: Annotated[Path, typer.Argument(help="JSON file of a verdict, as `ope gate` writes it.")],
    task_config: ConfigOption,
    store: StoreOption = Path("var/store"),
    observations: ObservationsOption = Path("var/observations"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the gate's config, to see what it would have changed; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; without it the verdict is printed.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Judges again what a verdict judged: without --set to the same byte; with it, a verdict that can never promote."""
    task, data = load_task(task_config), _read_json(verdict)
    again = rerun_verdict(data, overrides=overrides or (), store=Store(store, task.name), task=task, observations=observations)
    if out is not None:
        out.write_text(to_json(to_mapping(again)), encoding="utf-8")
    if out is None or not as_json:
        _tell(again, as_json=as_json)
    return EXIT_CODES.get(again.decision, EXIT_CODES["hold"])


def verdicts(task: TaskOption, store: StoreOption = Path("var/store"), as_json: JsonOption = False) -> None:
    """Lists the kept verdicts of a task, oldest first, and for a promotion what was predicted against what came."""
    kept = Store(store, task)
    found, came = [(verdict_id, kept.verdict(verdict_id)) for verdict_id in kept.verdict_ids()], kept.notes("followups")
    if as_json:
        print(json.dumps([{"id": verdict_id, **verdict, "came": came.get(verdict_id)} for verdict_id, verdict in found], indent=2))
        return
    table = Table("verdict", "decision", "challenger", "reason", "what came of it")
    for verdict_id, verdict in found:
        about = (str(verdict.get("challenger"))[:12], escape(" ".join(verdict["reasons"])))
        table.add_row(verdict_id[:12], str(verdict.get("decision")), *about, escape(came.get(verdict_id, {}).get("said", "")))
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


def _judge_log(log: Path, target: str, folder: Path | None, task_config: Path | None, overrides: list[str], *, as_json: bool) -> int:
    section = load_task(task_config, overrides=overrides).section("gate") if task_config is not None else _sections(overrides)
    config = configs.parse(GateConfig, section, where="gate")
    return _tell_all([gate_open_bandit(log, target=target, config=config, now_us=now_us())], folder, as_json=as_json)


def _sections(overrides: list[str]) -> dict[str, Any]:
    pairs = [text.removeprefix("gate.").partition("=") for text in overrides]
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def _tell_all(verdicts: list[Verdict], folder: Path | None, *, as_json: bool) -> int:
    """Tells each verdict; the exit code is the best one's."""
    for verdict in verdicts:
        if folder is not None:
            write_reports(folder, name=f"{verdict.contest.task}-{verdict.contest.challenger[:12]}", verdict=verdict)
        _tell(verdict, as_json=as_json)
    return min(EXIT_CODES[verdict.decision] for verdict in verdicts)


def _keep_looking(looking: Watch, *, poll_s: float, as_json: bool) -> None:
    """Looks until SIGTERM or SIGINT; a verdict in progress is brought to its end first."""
    if not poll_s > 0:
        raise GateError(f"--poll-s: {poll_s} is refused; give seconds > 0")
    stopped = until_signalled()
    while not stopped.is_set():
        verdict = looking.look()
        if verdict is not None and verdict.decision != "wait" and looking.conclude(verdict) is not None:
            _tell(verdict, as_json=as_json)
        came = looking.follow()
        if came is not None and (came.wrong or came.broken):
            lines = (came.said, *(f"rolled back: {sentence}" for sentence in came.broken))
            print(json.dumps(came.note()) if as_json else "\n".join(lines), flush=True)
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
