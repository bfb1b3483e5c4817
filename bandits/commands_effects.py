"""`bandits effects`, `bandits personalise` and `bandits explain`: what arms did, whom to give which, and how a policy reads."""

import enum
import json
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet
import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bandits.config import parse_task
from bandits.effects.config import EffectsFile
from bandits.effects.report import effects_report
from bandits.errors import BanditsError, ExperimentError
from bandits.explained import explained
from bandits.personalise.cate_report import UnitEffects, cate_report
from bandits.personalise.config import PersonaliseFile
from bandits.personalise.distilled import followed, leaf_lines, leaf_notes
from bandits.personalise.report import Personalised, models_to_draw, personalise_report, personalised
from bandits.personalise.served import black_box_settings, places_of, task_of, tree_settings
from bandits.personalise.tree_shape import PolicyTree
from bandits.simulation.tables import read_table
from protos import config
from protos.command import refusing
from protos.errors import ProtosError
from protos.task import load_task

__all__ = ["effects", "explain", "personalise"]

ConfigFile = Annotated[Path, typer.Argument(help="YAML that names the data file and what its columns are; bandits/PERSONALISE.md.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[list[str], typer.Option("--set", help="key=value laid over the file; repeatable.")]


class Served(enum.StrEnum):
    """Which policy is written as a task."""

    tree = "tree"
    black_box = "black_box"
    multi_task = "multi_task"
    guided = "guided"


class Form(enum.StrEnum):
    """How a policy is written."""

    text = "text"
    json = "json"
    sql = "sql"


@refusing(BanditsError, ProtosError, OSError)
def effects(
    file: ConfigFile,
    as_json: AsJson = False,
    set_: Overrides = [],  # noqa: B006 (typer reads it; it is never changed)
    units: Annotated[Path | None, typer.Option("--units", help="Write each row's effects by `cate`, with errors, as Parquet.")] = None,
) -> None:
    """Estimate what each arm of an experiment did to each outcome, with errors, overall, by segment and by covariates."""
    parsed = config.parse(EffectsFile, config.apply_overrides(config.load_yaml(file), set_), where="")
    if units is not None and parsed.cate is None:
        raise ExperimentError("--units: the file says nothing under `cate`; name the columns by which effects may differ")
    table = read_table(file.parent / parsed.data)
    report = effects_report(table, parsed)
    if parsed.cate is not None:
        lines, by_unit = cate_report(table, parsed)
        report["outcomes"] = [outcome | {"cate": lines[outcome["outcome"]]} for outcome in report["outcomes"]]
        if units is not None:
            pyarrow.parquet.write_table(_units(by_unit), units)
    if as_json:
        print(json.dumps(report, indent=1, allow_nan=False))
        return
    console = Console()
    for outcome in report["outcomes"]:
        console.print(_table(report, outcome))
        for line in _notes(outcome):
            console.print(escape(line), highlight=False)


@refusing(BanditsError, ProtosError, OSError)
def personalise(
    file: ConfigFile,
    as_json: AsJson = False,
    set_: Overrides = [],  # noqa: B006 (as above)
    task: Annotated[Path | None, typer.Option("--task", help="Write the file of a task that serves the policy.")] = None,
    policy: Annotated[
        Served,
        typer.Option("--policy", help="Which one to write: the deepest tree, the black box, or (with `distil: true`) a distilled one."),
    ] = Served.tree,
) -> None:
    """Learn whom to give which arm on half of an experiment, and judge it on the other: a black box, and trees that people can read."""
    parsed = config.parse(PersonaliseFile, config.apply_overrides(config.load_yaml(file), set_), where="")
    found = personalised(read_table(file.parent / parsed.data), parsed)
    report = personalise_report(found, parsed)
    if task is not None:
        task.write_text(yaml.safe_dump(_task(task.stem, found, policy, parsed), sort_keys=False, default_flow_style=None), encoding="utf-8")
    if as_json:
        print(json.dumps(report, indent=1, allow_nan=False))
        return
    console = Console()
    console.print(_policies(report))
    for line in (*report["doubts"], report["verdict"], *_trees(report)):
        console.print(escape(line), highlight=False)


@refusing(BanditsError, ProtosError, OSError)
def explain(
    task: Annotated[Path, typer.Argument(help="File of a task whose policy is `policy_tree` or `linear_hte`.")],
    form: Annotated[
        Form, typer.Option("--format", help="How to write it; SQL is a CASE expression over columns named as features.")
    ] = Form.text,
) -> None:
    """Write a task's policy in words that can be read, checked and run elsewhere."""
    parsed = parse_task(load_task(task))
    print(explained(parsed.spec, parsed.schema, form=form.value))


def _units(found: list[UnitEffects]) -> pa.Table:
    """A row for each unit, arm and outcome; `row` counts from 0 in the data file."""
    parts = [
        pa.table({
            "outcome": pa.repeat(each.outcome, len(each.row)), "arm": pa.repeat(arm, len(each.row)), "row": each.row,
            "effect": each.effect[:, at], "standard_error": each.error[:, at],
        })
        for each in found for at, arm in enumerate(each.arms)
    ]  # fmt: skip
    return pa.concat_tables(parts).sort_by([("outcome", "ascending"), ("row", "ascending"), ("arm", "ascending")])


def _task(name: str, found: Personalised, policy: Served, file: PersonaliseFile) -> dict[str, Any]:
    if policy is Served.black_box:
        return task_of(name, found.data, *black_box_settings(found.black_box, found.data, models_to_draw(found, file)))
    tree, notes = _tree_and_notes(found, policy)
    return task_of(name, found.data, "policy_tree", tree_settings(tree, places_of(found.data.encoding), notes))


def _tree_and_notes(found: Personalised, policy: Served) -> tuple[PolicyTree, list[str]]:
    """The tree to be served, and what is said of its leaves."""
    if policy is Served.tree:
        tree = found.trees[-1]
        return tree, leaf_notes(tree, leaf_lines(tree, found.data, found.judging))
    if found.distilled is None:
        raise ExperimentError(f"--policy {policy.value}: the file does not ask for it; say `distil: true`")
    tree = found.distilled.policy if policy is Served.multi_task else found.distilled.guided.policy
    notes = leaf_notes(tree, leaf_lines(tree, found.data, found.judging))
    if policy is Served.guided:
        names = followed(found.distilled, found.data.x)
        notes = [f"{note}; by {' or '.join(each)}" if note and each else note for note, each in zip(notes, names, strict=True)]
    return tree, notes


def _policies(report: dict[str, Any]) -> Table:
    rows = report["rows"]
    title = f"less {report['best_uniform_arm']} for everybody; {rows['train']} rows trained, {rows['test']} judge"
    table = Table("policy", "value", "error", "gain", "paired error", "95% interval", title=title)
    for each in report["uniform"]:
        table.add_row(escape(f"{each['arm']} for everybody"), f"{each['value']:.6g}", f"{each['standard_error']:.4g}", "", "", "")
    learned = [("black box", report["black_box"]), *((f"tree of depth {each['depth']}", each) for each in report["trees"])]
    learned += [(name.replace("_", "-") + " tree", report[name]) for name in ("multi_task", "guided") if name in report]
    for name, each in learned:
        low, high = each["gain_interval"]
        value = f"{each['value']:.6g}", f"{each['standard_error']:.4g}"
        table.add_row(name, *value, f"{each['gain']:.4g}", f"{each['gain_standard_error']:.4g}", f"{low:.4g} to {high:.4g}")
    others = [("constrained", report["constrained"])] if "constrained" in report else []
    others += [(f"weights {each['weights']}", each) for each in report.get("pareto", ())]
    for name, each in others:
        said = f"{name}, {'feasible' if each['feasible'] else 'NOT feasible'}"
        value = f"{each['value']:.6g}", f"{each['standard_error']:.4g}"
        table.add_row(escape(said), *value, f"{each['gain']:.4g}", f"{each['gain_standard_error']:.4g}", "")
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
    if "received" in outcome:
        line = outcome["received"]
        low, high = line["interval"]
        figures = f"{line['effect']:.6g} with an error of {line['standard_error']:.4g} ({low:.4g} to {high:.4g})"
        notes.append(f"effect of {line['column']} received: {figures}; first stage F {line['first_stage_f']:.4g}")
        notes += [line["warning"]] if "warning" in line else []
    notes += _cate_notes(outcome)
    for each in (*outcome["doubts"], *outcome.get("cate", {}).get("doubts", ())):
        notes.append(f"doubt: {each}")
    for part in outcome["segments"]:
        if "reason" in part:
            notes.append(f"{part['segment']} = {part['level']}: {part['reason']}")
    return notes


def _cate_notes(outcome: dict[str, Any]) -> list[str]:
    notes = []
    for arm in outcome.get("cate", {}).get("arms", ()):
        for each in arm["at"]:
            low, high = each["interval"]
            value = each["value"] if isinstance(each["value"], str) else f"{each['value']:g}"
            notes.append(f"effect of {arm['arm']} at {each['column']} = {value}: {each['effect']:.6g} ({low:.4g} to {high:.4g})")
    return notes
