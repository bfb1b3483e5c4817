"""`bandits simulate` and `bandits compare`: policies tried in worlds of one's own making, and on any classification table."""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.ipc
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from bandits.errors import BanditsError, SimulationError
from bandits.simulation.catalog import environment_of
from bandits.simulation.classification import classification, labelled_rows, right_class
from bandits.simulation.environment import Environment
from bandits.simulation.experiment import DEFAULT_FLOOR, DEFAULT_POLICY, Contender, Experiment, contenders, policy_choice
from bandits.simulation.pictures import regret_picture
from bandits.simulation.run import History, simulate
from bandits.simulation.summary import Mean, Summary, arrow_rows, difference, plain, summarise
from bandits.simulation.tables import read_table
from protos import config
from protos.command import refusing
from protos.errors import ProtosError

__all__ = ["compare", "simulate_experiment"]

STDOUT = "-"

JsonFile = Annotated[str | None, typer.Option("--json", metavar="PATH", help="Write the figures as JSON; - prints them, and nothing else.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Draw cumulative regret with intervals: .png, .svg or .pdf.")]
ArrowFile = Annotated[Path | None, typer.Option("--arrow", help="Write every decision of every seed as an Arrow file.")]
# What matplotlib draws without a display, told by the name of the file.
_PICTURES = (".png", ".svg", ".pdf")


class Trial(NamedTuple):
    """What is to be run: a world, policies, and for how long. `about` says in JSON what the user asked for."""

    title: str
    environment: Environment
    contenders: Sequence[Contender]
    rounds: int
    seeds: range
    learn_every: int
    about: dict[str, Any]


class Sinks(NamedTuple):
    """Where results go."""

    json: str | None
    plot: Path | None
    arrow: Path | None


@refusing(BanditsError, ProtosError, OSError)
def simulate_experiment(
    experiment: Annotated[Path, typer.Argument(help="YAML of the experiment; see configs/experiments.")],
    rounds: Annotated[int | None, typer.Option(min=1, help="Decisions of each seed; else the file's.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; else the file's.")] = None,
    learn_every: Annotated[int | None, typer.Option(min=1, help="Decisions between two updates; else the file's.")] = None,
    json_file: JsonFile = None,
    plot: PlotFile = None,
    arrow: ArrowFile = None,
) -> None:
    """Try policies in a simulated world, as an experiment's file says; many seeds go through the device together."""
    given = {"rounds": rounds, "seeds": seeds, "learn_every": learn_every}
    file = {**config.load_yaml(experiment), **{key: value for key, value in given.items() if value is not None}}
    parsed = config.parse(Experiment, file, where=str(experiment))
    environment = environment_of(parsed, folder=experiment.parent)
    tried = contenders(parsed.policies, dims=environment.dims)
    about = {"experiment": str(experiment), "environment": parsed.environment.model_dump(mode="json")}
    trial = Trial(experiment.stem, environment, tried, parsed.rounds, range(parsed.seeds), parsed.learn_every, about)
    _run(trial, Sinks(json_file, plot, arrow))


@refusing(BanditsError, ProtosError, OSError)
def compare(
    data: Annotated[Path, typer.Option("--data", help="Classification table: CSV (also .gz) or Parquet.")],
    label: Annotated[str, typer.Option("--label", help="Column of the class; with --no-header its number, from 0.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows of each shuffle, at most.")] = 5_000,
    shuffles: Annotated[int, typer.Option(min=1, help="Shuffles; number s is numpy's default_rng(s).permutation(n).")] = 5,
    policy: Annotated[
        list[str], typer.Option("--policy", help="NAME, or 'NAME {setting: value}'; repeatable. Else the library's default.")
    ] = [DEFAULT_POLICY],  # noqa: B006 (typer reads the default; it is never changed)
    floor: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of decisions that explore evenly.")] = DEFAULT_FLOOR,
    header: Annotated[bool, typer.Option("--header/--no-header", help="Whether the first line of a CSV names the columns.")] = True,
    learn_every: Annotated[int, typer.Option(min=1, help="Decisions between two updates.")] = 1,
    json_file: JsonFile = None,
    plot: PlotFile = None,
    arrow: ArrowFile = None,
) -> None:
    """Run policies on a classification table as a bandit: one pass, reward 1 for the right class; numbers z-scored, words one-hot."""
    labelled = labelled_rows(read_table(data, header=header), label=label)
    environment = classification(labelled, right_class(len(labelled.classes)))
    tried = contenders(tuple(policy_choice(text, floor=floor) for text in policy), dims=environment.dims)
    taken = min(rows, len(labelled.label))
    about = {"data": str(data), "label": label, "classes": len(labelled.classes), "features": environment.dims.context}
    _run(Trial(data.name, environment, tried, taken, range(shuffles), learn_every, about), Sinks(json_file, plot, arrow))


def _run(trial: Trial, sinks: Sinks) -> None:
    _check(sinks)
    runs = [(contender, *_timed(trial, contender)) for contender in _counted(trial.contenders)]
    summaries = [summarise(history, label=each.label, spec=each.spec, seconds=seconds) for each, history, seconds in runs]
    if sinks.arrow is not None:
        tables = [arrow_rows(history, label=each.label, seeds=trial.seeds) for each, history, _ in runs]
        _write_arrow(sinks.arrow, pa.concat_tables(tables).unify_dictionaries(), caveat=trial.environment.caveat)
    if sinks.plot is not None:
        regret_picture(summaries, title=trial.title).savefig(sinks.plot)
    _report(trial, summaries, sinks.json)


def _check(sinks: Sinks) -> None:
    """Refuses what could not be written, before anything is run."""
    if sinks.plot is not None and sinks.plot.suffix not in _PICTURES:
        raise SimulationError(f"--plot: {sinks.plot} is no picture; name a file that ends in {', '.join(_PICTURES)}")
    files = {"--json": None if sinks.json in (None, STDOUT) else Path(str(sinks.json)), "--plot": sinks.plot, "--arrow": sinks.arrow}
    for flag, path in files.items():
        if path is not None and not path.parent.is_dir():
            raise SimulationError(f"{flag}: {path} cannot be written, {path.parent} is no folder; make it, or name another")


def _timed(trial: Trial, contender: Contender) -> tuple[History, float]:
    started = time.perf_counter()
    history = simulate(trial.environment, contender.spec, rounds=trial.rounds, seeds=trial.seeds, learn_every=trial.learn_every)
    return history, time.perf_counter() - started


def _counted(tried: Sequence[Contender]) -> Iterable[Contender]:
    """The contenders, with a bar on stderr."""
    console = Console(stderr=True)
    return track(tried, description="policies", console=console, transient=True, disable=not console.is_terminal)


def _report(trial: Trial, summaries: Sequence[Summary], json_file: str | None) -> None:
    first = summaries[0]
    report = {
        **trial.about,
        "rounds": trial.rounds,
        "seeds": len(trial.seeds),
        "learn_every": trial.learn_every,
        "caveat": trial.environment.caveat,
        "policies": [plain(summary, against=None if summary is first else first) for summary in summaries],
    }
    text = json.dumps(report, indent=1, allow_nan=False)
    if json_file == STDOUT:
        print(text)
        return
    if json_file is not None:
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    console = Console()
    console.print(_table(summaries, title=f"{trial.title}: {trial.rounds} decisions, {len(trial.seeds)} seeds"))
    if trial.environment.caveat:
        console.print(escape(trial.environment.caveat), highlight=False)


def _table(summaries: Sequence[Summary], *, title: str) -> Table:
    constrained = any(summary.violations > 0.0 for summary in summaries)
    last = (*(("violations",) if constrained else ()), "counted", "s")
    table = Table("policy", "mean reward", "95% interval", f"less {summaries[0].label}", "last tenth", "regret", *last, title=title)
    for summary in summaries:
        less = "" if summary is summaries[0] else _interval(difference(summary, summaries[0]))
        violations = (f"{summary.violations:.1%}",) if constrained else ()
        figures = (_number(summary.last_tenth.value), _number(summary.regret.value), *violations, f"{summary.counted:.0%}")
        table.add_row(
            escape(summary.label),
            _number(summary.mean_reward.value),
            _interval(summary.mean_reward),
            less,
            *figures,
            f"{summary.seconds:.1f}",
        )
    return table


def _interval(mean: Mean) -> str:
    return f"{_number(mean.lower)} to {_number(mean.upper)}"


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"


def _write_arrow(path: Path, table: pa.Table, *, caveat: str) -> None:
    table = table.replace_schema_metadata({"caveat": caveat})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
