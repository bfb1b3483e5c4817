"""What the commands of all rooms share: how they refuse bad input, show their config, and end when asked. Touches the terminal."""

import functools
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import pydantic
import typer

from protos import config

__all__ = ["print_config", "refusing", "until_signalled"]

P = ParamSpec("P")
_SECRET = re.compile("password|secret|token|[.]key$|key[.]pem", re.IGNORECASE)
R = TypeVar("R")


def refusing(*errors: type[Exception], exit_code: int = 2) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A command whose `errors` end it with one line a fault on stderr and `exit_code`, never with a traceback."""

    def wrap(command: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return command(*args, **kwargs)
            except errors as error:
                for line in str(error).splitlines() or [type(error).__name__]:
                    print(f"error: {line}", file=sys.stderr)
                raise typer.Exit(exit_code) from error

        return run

    return wrap


def print_config(parts: Iterable[tuple[str, pydantic.BaseModel, Mapping[str, Any]]], *, flags: Sequence[str] = ()) -> None:
    """Every value of parsed configs and where it came from: (section or "", model, what the file gave)."""
    for section, model, given in parts:
        prefix = f"{section}." if section else ""
        for dotted, value, origin in config.provenance(model, given=given, flags=flags, prefix=prefix):
            print(f"{dotted} = {_without_secrets(value)!r}  ({origin})")


def _without_secrets(value: Any) -> Any:
    """A mapping, such as a broker's settings, without what is secret in it."""
    if not isinstance(value, Mapping):
        return value
    return {key: "***" if isinstance(key, str) and _SECRET.search(key) else _without_secrets(inner) for key, inner in value.items()}


def until_signalled() -> threading.Event:
    """An event that SIGTERM and SIGINT set, for a loop that ends between two steps."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
