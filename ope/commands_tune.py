"""`ope tune`: better numbers for a constrained policy, from its own log."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
import typer
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bandits.catalog import parsed
from bandits.config import parse_task
from bandits.policies.constrained import ConstrainedSettings
from bandits.policies.constraints import Constraint
from bandits.standing_baseline import starting_state
from bandits.store import Store
from ope.errors import SourceError
from ope.estimate import Estimate
from ope.gate.config import gate_config
from ope.tune import Goal, Judged, Tuning
from ope.tune import tune as tuned
from ope.tune_log import read_tuning_log
from ope.tune_search import Tried
from protos.task import TaskFile, load_task

__all__ = ["tune"]

# No point kept its guardrails.
_NOTHING = 1


def tune(
    task_config: Annotated[Path, typer.Option("--task-config", help="The task's YAML file; its policy is constrained_thompson.")],
    store: Annotated[Path, typer.Option("--store", help="Root of the policy store.")],
    observations: Annotated[Path, typer.Option("--observations", help="The observations table to learn and judge from.")],
    objective: Annotated[str | None, typer.Option(help="What is to rise: `reward`, or an outcome. Without it, the gate's metric.")] = None,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(
            help="OUTCOME:at_least:ALPHA or OUTCOME:at_most:ALPHA, beside the baseline; repeatable. Without it, the task's bounds."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=1_000, help="Settings to try.")] = 40,
    largest_alpha: Annotated[float, typer.Option(min=0.001, max=1.0, help="Largest alpha to try.")] = 0.25,
    level: Annotated[float, typer.Option(help="Probability that an interval misses, in (0, 0.5).")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Key of the search.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the tuned `policy.settings` here, as YAML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> int:
    """Tunes alpha and the reward table of a constrained policy by Bayesian optimisation on its log. Exit code 1: none kept its bounds."""
    file = load_task(task_config)
    task = parse_task(file)
    settings = _settings(file, parsed(task.spec.name, json.loads(task.spec.settings)))
    gate = gate_config(file)
    guards = tuple(map(_guardrail, guardrail)) if guardrail else settings.constraints
    # Of single actions the self-normalised estimate: where nearly every outcome is 1, its error is a fraction of the other's.
    goal = Goal(objective or gate.metric, guards, "snips" if task.section.slate_size == 1 else gate.estimator, level)
    log = read_tuning_log(observations, file, task, metrics=goal.metrics)
    state = starting_state(Store(store, file.name), task)
    with _progress(trials) as watch:
        found = tuned(log, task, settings, goal, state=state, trials=trials, largest_alpha=largest_alpha, seed=seed, watch=watch)
    text = (
        ""
        if found.settings is None
        else yaml.safe_dump(_as_given(file, found.settings), sort_keys=False, default_flow_style=None, width=120)
    )
    if out is not None and text:
        out.write_text(text, encoding="utf-8")
    _show(found, goal, text, as_json=as_json)
    return 0 if text else _NOTHING


def _settings(file: TaskFile, settings: object) -> ConstrainedSettings:
    if not isinstance(settings, ConstrainedSettings):
        name = (file.section("policy") or {}).get("name", "linear_thompson")
        raise SourceError(
            f"--task-config: policy.name is {name!r}, which has no bounds and no table to tune; give a constrained_thompson task"
        )
    return settings


def _guardrail(text: str) -> Constraint:
    parts = text.split(":")
    try:
        outcome, direction, alpha = parts
        return Constraint.model_validate({"outcome": outcome, "direction": direction, "alpha": float(alpha)})
    except (ValueError, pydantic.ValidationError) as error:
        raise SourceError(
            f"--guardrail: {text!r} is refused; give OUTCOME:at_least:ALPHA or OUTCOME:at_most:ALPHA, ALPHA in [0, 1]"
        ) from error


class _progress:  # noqa: N801 (used like a function)
    """A bar on stderr, and the best so far."""

    def __init__(self, trials: int) -> None:
        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("trials", total=trials)

    def __enter__(self) -> "_progress":
        self._bar.start()
        return self

    def __call__(self, tried: Sequence[Tried]) -> None:
        self._bar.update(self._task, completed=len(tried))

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _as_given(file: TaskFile, found: ConstrainedSettings) -> dict[str, Any]:
    """The file's own settings with the tuned numbers in them."""
    given: dict[str, Any] = json.loads(json.dumps(file.section("policy")["settings"]))
    for place, constraint in enumerate(found.constraints):
        if constraint.alpha is not None:
            given["constraints"][place]["alpha"] = constraint.alpha
    if found.reward is not None:
        given["reward"]["worth"] = found.reward.model_dump(mode="json")["worth"]
    return given


def _show(found: Tuning, goal: Goal, text: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_plain(found, goal), indent=2, allow_nan=False))
        return
    console = Console()
    table = Table("on rows that no trial saw", goal.metric, *(f"slack of {one.outcome}" for one in goal.guardrails))
    for name, came in (("declared", found.declared), ("tuned", found.chosen)):
        if came is not None:
            table.add_row(name, *map(_interval, (came.objective, *came.slack)))
    console.print(table)
    if not text or found.gain is None or found.chosen is None:
        console.print("No settings kept every guardrail; loosen one, try more, or gather a longer log.")
        return
    console.print(f"tuned less declared: {_interval(found.gain)} {goal.metric} a decision", highlight=False)
    if not found.chosen.kept:
        console.print("A guardrail that held in the search is not proven on these rows; the gate will say more.")
    console.print("policy.settings:", highlight=False)
    console.print(text, markup=False, highlight=False)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.lower:.4f}, {estimate.upper:.4f}]"


def _plain(found: Tuning, goal: Goal) -> Mapping[str, Any]:
    def estimate(value: Estimate | None) -> Any:
        if value is None:
            return None
        numbers = dataclasses.asdict(value).items()
        return {name: None if isinstance(number, float) and math.isnan(number) else number for name, number in numbers}

    def came(value: Judged | None) -> Any:
        if value is None:
            return None
        slack = {one.outcome: estimate(own) for one, own in zip(goal.guardrails, value.slack, strict=True)}
        return {"objective": estimate(value.objective), "slack": slack, "kept": value.kept}

    return {
        "objective": goal.metric,
        "settings": None if found.settings is None else found.settings.model_dump(mode="json"),
        "declared": came(found.declared),
        "tuned": came(found.chosen),
        "gain": estimate(found.gain),
        "trials": [{"objective": one.objective, "slack": one.slack.tolist(), "kept": one.feasible} for one in found.trials],
    }
