"""The command `bandits`: learn a policy from observations, look at snapshots, try policies."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import rich
import rich.table
import typer

from bandits.commands_effects import effects, explain, personalise
from bandits.commands_simulation import compare, simulate_experiment
from bandits.config import PolicySection, TaskPolicy, parse_task
from bandits.errors import BanditsError, StoreError
from bandits.features import FeaturesSection
from bandits.first import ensure_champion
from bandits.learner import Learner
from bandits.store import Store
from protos import config
from protos.command import print_config as print_parts
from protos.command import refusing, until_signalled
from protos.errors import ObservationsError, ProtosError
from protos.task import load_task

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Learn policies from observations, look after their snapshots, try them."
)
app.command("simulate")(simulate_experiment)
app.command()(compare)
app.command()(effects)
app.command()(personalise)
app.command()(explain)

TaskConfig = Annotated[Path, typer.Option("--task-config", help="YAML of the task.")]
StorePath = Annotated[Path, typer.Option("--store", help="Directory of the policy store.")]
Overrides = Annotated[list[str], typer.Option("--set", help="section.key=value laid over the task's file; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
@refusing(BanditsError, ProtosError, OSError)
def learn(
    task_config: TaskConfig,
    store: StorePath,
    observations: Annotated[Path, typer.Option("--observations", help="The observations table that `attribution run` writes.")],
    poll_s: Annotated[float, typer.Option(min=0.01, help="Pause between looks at the table, seconds.")] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="Learn what is there, publish if it is enough, and end.")] = False,
    set_: Overrides = [],  # noqa: B006 (typer reads the default; it is never changed)
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show every value of the config and where it came from; then end.")
    ] = False,
) -> None:
    """Follow the observations table, and publish one challenger at a time; the next waits for the verdict on the last."""
    task = parse_task(load_task(task_config, overrides=set_))
    if print_config:
        _print_config(task_config, set_)
        return
    task_store = Store(store, task.name)
    ensure_champion(task_store, task, now_us=_now_us(), actor="bandits learn")
    learner = Learner(task_store, task, observations)
    resumed = learner.resume()
    print(f"learn: {task.name}: {f'continues {resumed[:12]}' if resumed else 'starts from the prior'}", flush=True)
    stop = until_signalled()
    while True:
        _step(learner, task, forgiving=not once)
        if once or stop.wait(poll_s):
            return


@app.command()
@refusing(BanditsError, ProtosError, OSError)
def begin(task_config: TaskConfig, store: StorePath, set_: Overrides = []) -> None:  # noqa: B006
    """Give a task its first champion: uniform over the eligible candidates. Does nothing where it has one."""
    task = parse_task(load_task(task_config, overrides=set_))
    pointer = ensure_champion(Store(store, task.name), task, now_us=_now_us(), actor="bandits begin")
    print(f"{task.name}: champion {pointer.digest}")


@app.command()
@refusing(BanditsError, ProtosError, OSError)
def snapshots(task: Annotated[str, typer.Argument(help="Name of the task.")], store: StorePath, as_json: AsJson = False) -> None:
    """List a task's snapshots, oldest first, with champion and challengers marked."""
    rows = list(_described(_existing(store, task)))
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = rich.table.Table("snapshot", "policy", "kind", "rows", "role", "label", box=None)
    for row in rows:
        table.add_row(row["digest"][:12], row["policy"], row["kind"], str(row["rows"]), row["role"], row["label"])
    rich.print(table)


@app.command()
@refusing(BanditsError, ProtosError, OSError)
def verify(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    digest: Annotated[str, typer.Argument(help="Digest of the snapshot, 64 hex digits.")],
    store: StorePath,
) -> None:
    """Check a snapshot as a server would: digest, hashes, shapes, finite numbers, golden requests."""
    policy = _existing(store, task).load(digest)
    policy.check_golden(slots=1)
    print(f"{digest}: sound ({policy.manifest.policy}, {policy.manifest.rows} rows)")


def _step(learner: Learner, task: TaskPolicy, *, forgiving: bool) -> None:
    """One look at the table. Who is `forgiving` waits for a table that is not there yet, and for a challenger that came in between."""
    try:
        learner.absorb()
        if learner.due():
            challenger = learner.publish(now_us=_now_us())
            print(
                f"learn: {task.name}: challenger {challenger.digest[:12]} ({challenger.kind}, {learner.progress.rows} decisions)",
                flush=True,
            )
    except (ObservationsError, StoreError) as error:
        if not forgiving:
            raise
        print(f"learn: {task.name}: {error}", file=sys.stderr, flush=True)


def _existing(root: Path, task: str) -> Store:
    """The store of a task that has begun."""
    store = Store(root, task)
    if store.champion() is None:
        known = sorted(path.name for path in root.glob("*") if (path / "champion.json").is_file())
        raise StoreError(f"task: {task!r} has no champion in {root}; {config.nearest(task, known)}; `bandits begin` starts one")
    return store


def _described(store: Store) -> Any:
    pointer = store.champion()
    waiting = {item.digest for item in store.challengers()}
    for digest in store.digests():
        manifest = store.manifest(digest)
        roles = {
            "champion": pointer and pointer.digest == digest,
            "previous": pointer and pointer.previous == digest,
            "challenger": digest in waiting,
        }
        yield {
            "digest": digest,
            "policy": manifest.policy,
            "kind": manifest.kind,
            "rows": manifest.rows,
            "training_watermark_us": manifest.training_watermark_us,
            "role": ", ".join(role for role, holds in roles.items() if holds),
            "label": manifest.label,
        }


def _print_config(path: Path, overrides: list[str]) -> None:
    file = load_task(path, overrides=overrides)
    models: dict[str, type[config.StrictModel]] = {"features": FeaturesSection, "policy": PolicySection}
    print_parts(
        ((name, config.parse(model, file.section(name), where=name), file.section(name)) for name, model in models.items()), flags=overrides
    )


def _now_us() -> int:
    return time.time_ns() // 1_000


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
