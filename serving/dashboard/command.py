"""The command `serving dashboard`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from protos.command import refusing, until_signalled
from protos.errors import ProtosError
from serving.errors import ServingError

__all__ = ["dashboard"]


@refusing(ServingError, ProtosError)
def dashboard(
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Folder of `serving demo`: its store, observations, metrics and summary, unless named below."),
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Directory of the policy store. [default: var/store]")] = None,
    observations: Annotated[
        Path | None, typer.Option("--observations", help="The observations table. [default: var/attribution/observations]")
    ] = None,
    metrics: Annotated[
        list[str], typer.Option("--metrics", help="host:port of a server's `metrics_address`; repeatable, one a worker.")
    ] = [],  # noqa: B006 (typer reads the default; it is never changed)
    joiner: Annotated[str, typer.Option("--joiner", help="host:port of the joiner's `--metrics-address`.")] = "",
    address: Annotated[str, typer.Option("--address", help="host:port to listen on; whoever reaches it may read.")] = "127.0.0.1:8090",
    task: Annotated[str, typer.Option("--task", help="With --json: the task; the first one where not given.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the state once, as the page gets it, and end.")] = False,
) -> None:
    """Show the loop as a page: traffic, latency, arms, propensities, reward and lag, champion, challengers, verdicts, the way back."""
    # Tables and pictures take a second to load, for which no server should wait.
    from serving.dashboard.state import Board, Places
    from serving.dashboard.web import Website, plain
    from serving.server import now_us

    # Absolute: the page shows a command that is right wherever it is pasted.
    base = (folder or Path("var")).absolute()
    places = Places(
        store=(store or base / "store").absolute(),
        observations=(observations or base / "attribution" / "observations").absolute(),
        servers=metrics,
        joiner=joiner,
        demo=base if folder else None,
    )
    board = Board(places, now_us=now_us)
    if as_json:
        board.look()
        names = board.tasks()
        print(json.dumps(plain(board.state(task or (names[0] if names else ""))), indent=1))
        return
    stop, website = until_signalled(), Website(board, address)
    website.start()
    print(f"dashboard: http://{website.address}/", flush=True)
    try:
        stop.wait()
    finally:
        website.close()
