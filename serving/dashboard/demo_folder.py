"""Where the parts of a running demo answer Prometheus: their output says so, since the demo lets the system choose the ports."""

from pathlib import Path

__all__ = ["SUMMARY", "metrics_of"]

#: Stands in the demo's folder once it has ended, and its parts with it.
SUMMARY = "summary.json"
_SAID = "metrics: "


def metrics_of(folder: Path, part: str) -> str:
    """host:port of a part's metrics; empty before it has said so, and once the demo has ended."""
    if (folder / SUMMARY).exists():
        return ""
    try:
        with (folder / f"{part}.out").open(errors="replace") as output:
            return next((line.removeprefix(_SAID).strip() for line in output if line.startswith(_SAID) and line.endswith("\n")), "")
    except OSError:
        return ""
