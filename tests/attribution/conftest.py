"""One broker for all tests of a session: the user's own (KAFKA_BOOTSTRAP), or Apache Kafka started here."""

import os
from collections.abc import Iterator

import pytest

from tests.attribution.joiners import Joiners, joiners
from tests.kafka import broker


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Address of a real broker."""
    if own := os.environ.get("KAFKA_BOOTSTRAP"):
        yield own
        return
    if reason := broker.missing():
        pytest.skip(f"real broker not run: {reason} (or give a broker of yours: KAFKA_BOOTSTRAP=host:port)")
    with broker.running() as cluster:
        yield cluster.bootstrap


@pytest.fixture(scope="session")
def forked() -> Iterator[Joiners]:
    """Starts joiner processes."""
    with joiners() as started:
        yield started
