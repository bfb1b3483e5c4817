"""The loop of a peer's process: a request is a line of JSON, and so is its answer. Needs nothing but Python."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["answer_requests"]


def answer_requests(tasks: Mapping[str, Callable[[Any], Any]]) -> None:
    """Answers requests by the function of their `task`, until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": tasks[request["task"]](request)}
        except Exception as error:  # A peer may fail in any way; the benchmark says how.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
