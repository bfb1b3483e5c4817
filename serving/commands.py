"""The commands of this room."""

import gc
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jax
import typer
import yaml

from bandits.errors import BanditsError
from protos.command import print_config as print_parts
from protos.command import refusing, until_signalled
from protos.errors import ProtosError
from protos.task import load_tasks
from serving import call_commands
from serving.config import load_server_config
from serving.dashboard.command import dashboard
from serving.demo.command import demo, drill
from serving.errors import ServingError
from serving.json_logs import log_as_json
from serving.new_task import new
from serving.server import ALL_OF_IT, WORKER, Server, now_us
from serving.workers import Workers, ends_with_its_parent

if TYPE_CHECKING:
    from serving.replay import Report

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Decide slates over gRPC, log every decision, and derive logged decisions again."
)
call_commands.register(app)
app.command()(demo)
app.command()(drill)
app.command()(dashboard)
app.command()(new)

Tasks = Annotated[Path, typer.Option("--tasks", help="Directory of task files (*.yaml).")]
StorePath = Annotated[Path, typer.Option("--store", help="Directory of the policy store.")]
Logs = Annotated[Path, typer.Option("--logs", help="Directory of the decision log and the feedback log.")]
Overrides = Annotated[list[str], typer.Option("--set", help="key=value laid over the server's file; repeatable.")]
refuses = refusing(ServingError, BanditsError, ProtosError)


@app.command()
@refuses
def serve(
    tasks: Tasks,
    store: StorePath,
    logs: Logs,
    catalogues: Annotated[Path | None, typer.Option("--catalogues", help="Folder of <task>.yaml: actions and features, read anew.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML of the server; configs/serving.yaml documents every key.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="host:port to listen on; port 0 takes any free one.")] = None,
    address_file: Annotated[Path | None, typer.Option("--address-file", help="Write the bound address here once ready.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes that share the port and the logs.")] = None,
    front: Annotated[str | None, typer.Option("--front", help="What takes the calls: grpcio, or native (needs slateloop[front]).")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads that answer calls.")] = None,
    reflection: Annotated[bool, typer.Option("--reflection", help="Let clients list services and messages.")] = False,
    final_heartbeat: Annotated[bool, typer.Option("--final-heartbeat", help="At the end, say that no decision will follow.")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object a line instead of text.")] = False,
    compilation_cache: Annotated[
        Path, typer.Option("--compilation-cache", help="Compiled programs of this host, kept for the next start.")
    ] = Path("~/.cache/slateloop/xla"),
    set_: Overrides = [],  # noqa: B006 (typer reads the default; it is never changed)
    print_config: Annotated[bool, typer.Option("--print-config", help="Show every value and where it came from; then end.")] = False,
    worker: Annotated[int | None, typer.Option("--worker", hidden=True, help="The number of this worker.")] = None,
) -> None:
    """Serve every task of a directory until SIGTERM; then let running calls finish."""
    given = {"address": address, "workers": workers, "front": front, "threads": threads}
    given |= {"reflection": reflection or None, "final_heartbeat": final_heartbeat or None}
    flags = [f"{key}={yaml.safe_dump(value).splitlines()[0]}" for key, value in given.items() if value is not None]
    overrides = [*flags, *set_]
    settings, raw = load_server_config(config, overrides=overrides)
    if print_config:
        print_parts([("", settings, raw)], flags=overrides)
        return
    log_as_json() if json_logs else logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)
    stop = until_signalled()
    if settings.workers > 1:
        places = {"--tasks": tasks, "--store": store, "--logs": logs, "--compilation-cache": compilation_cache}
        places |= {flag: path for flag, path in (("--catalogues", catalogues), ("--config", config)) if path is not None}
        command = [sys.executable, "-m", "serving", "serve", *[str(part) for place in places.items() for part in place]]
        command += ["--json-logs"] * json_logs + [part for override in overrides for part in ("--set", override)]
        _serve_by_workers(Workers(settings, logs=logs, command=command, now_us=now_us), stop, address_file)
        return
    if worker is not None:
        ends_with_its_parent(stop)
    _prepare_jax(compilation_cache.expanduser())
    part = ALL_OF_IT if worker is None else WORKER
    _serve_here(Server(settings, tasks=load_tasks(tasks), store=store, logs=logs, catalogues=catalogues, part=part), stop, address_file)


def _serve_here(server: Server, stop: threading.Event, address_file: Path | None) -> None:
    # Programs are traced by many small objects, which the collector would walk as often for nothing.
    gc.disable()
    try:
        server.start()
        # What is loaded stays: the collector need not walk it again and again (a full walk stops every call for a tenth of a second).
        gc.collect()
        gc.freeze()
        gc.enable()
        _say_ready(server.address, address_file)
        if server.metrics_address:
            # The port may have been the system's choice.
            print(f"metrics: {server.metrics_address}", flush=True)
        stop.wait()
    finally:
        server.drain()


def _serve_by_workers(workers: Workers, stop: threading.Event, address_file: Path | None) -> None:
    try:
        workers.start(stop)
        if not stop.is_set():
            _say_ready(workers.address, address_file)
        workers.watch(stop)
    finally:
        workers.close()


def _say_ready(address: str, address_file: Path | None) -> None:
    print(f"serving: {address}", flush=True)
    if address_file is not None:
        _write_whole(address_file, f"{address}\n")


@app.command()
@refuses
def replay(
    store: StorePath,
    logs: Logs,
    task: Annotated[str | None, typer.Option("--task", help="Replay this task only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Derive every logged decision again and say which do not come out as logged; exit code 1 if any does not."""
    # Loads Arrow, for which no server should wait.
    from serving.replay import replay_logs

    report = replay_logs(logs, store=store, task=task)
    if as_json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        _print_report(report)
    if not report.sound:
        raise typer.Exit(1)


def _prepare_jax(cache: Path) -> None:
    """Settings that hold for the whole process: no hand-over to a second thread, and compiled programs kept on this host."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # Programs for another number of cores are other ones (see `bandits`), and XLA's key of a program does not say for how many it is.
    jax.config.update("jax_compilation_cache_dir", str(cache / f"cores-{os.environ['PJRT_NPROC']}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _write_whole(path: Path, text: str) -> None:
    """The file appears whole: whoever waits for it never reads half an address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.rename(path)


def _print_report(report: "Report") -> None:
    import rich.table

    table = rich.table.Table("figure", "value", box=None)
    for name, value in report.as_dict().items():
        if not isinstance(value, list):
            table.add_row(name, str(value))
    rich.print(table)
    for fault in (*report.faults, *report.damages):
        print(f"{fault.kind} at {fault.offset}: {fault.text}")
