"""Asks Prometheus endpoints, and reads what they say."""

import http.client
import urllib.request
from collections.abc import Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Labels", "Samples", "ask", "read_samples", "summed", "value_of"]

_TIMEOUT_S, _MOST_BYTES = 2.0, 4 << 20
# Sorted (label, value) pairs.
Labels = tuple[tuple[str, str], ...]
# Name of a sample -> labels -> value.
Samples = Mapping[str, Mapping[Labels, float]]


def ask(address: str) -> Samples:
    """What an endpoint, host:port or a URL, says now. Raises OSError or ValueError with what is wrong."""
    url = address if "://" in address else f"http://{address}/metrics"
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{address}: is no http address; give host:port")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            text = answer.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except http.client.HTTPException as error:
        # Say, the address of the Policy API, which speaks another protocol.
        raise ValueError(f"{type(error).__name__}: it speaks no HTTP/1") from error
    return read_samples(text)


def read_samples(text: str) -> Samples:
    """The samples of our own metrics in Prometheus' text format. Raises ValueError if it is none."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("slateloop_"):
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = float(sample.value)
    return found


def summed(many: Iterable[Samples]) -> Samples:
    """The samples of several processes as one: added up. Of gauges only sums of flags and ages make sense, and are used."""
    total: dict[str, dict[Labels, float]] = {}
    for samples in many:
        for name, by_labels in samples.items():
            into = total.setdefault(name, {})
            for labels, value in by_labels.items():
                into[labels] = into.get(labels, 0.0) + value
    return total


def value_of(samples: Samples, name: str, **labels: str) -> float:
    """The sum over the samples of a name that have these labels; 0 where there is none."""
    wanted = set(labels.items())
    return sum(value for own, value in samples.get(name, {}).items() if wanted <= set(own))
