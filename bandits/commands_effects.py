"""`bandits effects` and `bandits personalise`: what an experiment's arms did, and whom to give which."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bandits.effects.config import EffectsFile
from bandits.effects.report import effects_report
from bandits.errors import BanditsError
from bandits.personalise.config import PersonaliseFile
from bandits.personalise.report import personalise_report
from bandits.simulation.tables import read_table
from protos import config
from protos.command import refusing
from protos.errors import ProtosError

__all__ = ["effects", "personalise"]

ConfigFile = Annotated[Path, typer.Argument(help="YAML that names the data file and what its columns are; bandits/PERSONALISE.md.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[list[str], typer.Option("--set", help="key=value laid over the file; repeatable.")]


@refusing(BanditsError, ProtosError, OSError)
def effects(file: ConfigFile, as_json: AsJson = False, set_: Overrides = []) -> None:  # noqa: B006 (typer reads it; it is never changed)
    """Estimate what each arm of an experiment did to each outcome, with errors, overall and by segment."""
    parsed = config.parse(EffectsFile, config.apply_overrides(config.load_yaml(file), set_), where="")
    report = effects_report(read_table(file.parent / parsed.data), parsed)
    if as_json:
        print(json.dumps(report, indent=1, allow_nan=False))
        return
    console = Console()
    for outcome in report["outcomes"]:
        console.print(_table(report, outcome))
        for line in _notes(outcome):
            console.print(escape(line), highlight=False)


@refusing(BanditsError, ProtosError, OSError)
def personalise(file: ConfigFile, as_json: AsJson = False, set_: Overrides = []) -> None:  # noqa: B006 (as above)
    """Learn whom to give which arm on half of an experiment, and judge it on the other: a black box, and trees that people can read."""
    parsed = config.parse(PersonaliseFile, config.apply_overrides(config.load_yaml(file), set_), where="")
    report = personalise_report(read_table(file.parent / parsed.data), parsed)
    if as_json:
        print(json.dumps(report, indent=1, allow_nan=False))
        return
    console = Console()
    console.print(_policies(report))
    for line in (*report["doubts"], report["verdict"], *_trees(report)):
        console.print(escape(line), highlight=False)


def _policies(report: dict[str, Any]) -> Table:
    rows = report["rows"]
    title = f"less {report['best_uniform_arm']} for everybody; {rows['train']} rows trained, {rows['test']} judge"
    table = Table("policy", "value", "error", "gain", "paired error", "95% interval", title=title)
    for each in report["uniform"]:
        table.add_row(escape(f"{each['arm']} for everybody"), f"{each['value']:.6g}", f"{each['standard_error']:.4g}", "", "", "")
    for name, each in (("black box", report["black_box"]), *((f"tree of depth {each['depth']}", each) for each in report["trees"])):
        low, high = each["gain_interval"]
        value = f"{each['value']:.6g}", f"{each['standard_error']:.4g}"
        table.add_row(name, *value, f"{each['gain']:.4g}", f"{each['gain_standard_error']:.4g}", f"{low:.4g} to {high:.4g}")
    return table


def _trees(report: dict[str, Any]) -> list[str]:
    return [f"tree of depth {each['depth']}:\n" + "\n".join(f"  {line}" for line in each["text"].splitlines()) for each in report["trees"]]


def _table(report: dict[str, Any], outcome: dict[str, Any]) -> Table:
    title = f"{outcome['outcome']}, less {report['control']}"
    table = Table("segment", "arm", "effect", report["errors"] + " error", f"{report['level']:.0%} interval", "p", "rows", title=title)
    for part in (outcome, *outcome["segments"]):
        where = f"{part['segment']} = {part['level']}" if "segment" in part else "all"
        for line in (*part["effects"], *part.get("interactions", ())):
            low, high = line["interval"]
            p_value = "-" if line["p_value"] is None else f"{line['p_value']:.2g}"
            figures = (f"{line['effect']:.6g}", f"{line['standard_error']:.4g}", f"{low:.4g} to {high:.4g}", p_value)
            table.add_row(escape(where), escape(line["arm"]), *figures, str(line.get("rows", "")))
    return table


def _notes(outcome: dict[str, Any]) -> list[str]:
    rows = outcome["rows"]
    notes = [f"rows: {rows['read']} read, {rows['used']} used in {outcome['cells']} cells, {rows['dropped']} dropped"]
    if rows["missing"]:
        notes.append("missing: " + ", ".join(f"{name} {count}" for name, count in rows["missing"].items()))
    for each in outcome["dropped_columns"]:
        notes.append(f"column {each['column']} left out: {each['because']}" + (f" with {', '.join(each['of'])}" if "of" in each else ""))
    for part in outcome["segments"]:
        if "reason" in part:
            notes.append(f"{part['segment']} = {part['level']}: {part['reason']}")
    return notes
