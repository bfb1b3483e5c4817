"""The command `ope`: what a policy would have earned, and whether it may take the champion's place."""

import sys

import typer

from bandits.errors import BanditsError
from ope.commands_compare import compare
from ope.commands_coverage import coverage_command
from ope.commands_evaluate import evaluate
from ope.commands_propose import propose
from ope.commands_tune import tune
from ope.errors import OpeError
from ope.gate.commands import gate, promote, report, rerun, rollback, verdicts
from protos.errors import ProtosError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Judges policies on logged decisions: estimates, the gate, promotion and rollback.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (evaluate, gate, promote, propose, rollback, report, rerun, tune, verdicts):
    app.command()(command)
app.command("compare")(compare)
app.command("coverage")(coverage_command)

BAD_INPUT = 2
# `ope gate` and `ope rerun` answer 2 for a veto, so their errors are 3.
GATE_ERROR = 3
# 128 + SIGINT, as shells have it.
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Runs the command. Every fault is one line on stderr: `error: ...`, and exit code 2 (3 for `ope gate`)."""
    given = sys.argv[1:] if arguments is None else arguments
    code = GATE_ERROR if given[:1] in (["gate"], ["rerun"]) else BAD_INPUT
    try:
        result = typer.main.get_command(app)(given or ["--help"], prog_name="ope", standalone_mode=False)
    except typer.TyperException as error:
        _fail(error.format_message(), code)
    except (OpeError, ProtosError, BanditsError) as error:
        _fail(str(error), code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    else:
        sys.exit(result if isinstance(result, int) else 0)


def _fail(message: str, code: int) -> None:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
