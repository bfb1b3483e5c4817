"""The topics as the join needs them: made where absent, checked where they are there. Touches the network.

Append time must be the broker's own, since lateness is judged by it; all topics have the same number of partitions, since partition p of
each is derived together; and a record must outlive the longest stop of the joiner.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from attribution.errors import SourceError
from attribution.kafka_source import TOPICS

__all__ = ["ensure_topics"]

_TIMEOUT_S = 15.0
# What every topic is to have; retention comes beside them.
_NEEDED = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete"}


def ensure_topics(
    bootstrap: str, *, partitions: int, replicas: int, retention_s: float, prefix: str = "", settings: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Topic -> "made" or "there already". Raises SourceError if the broker refuses, or a topic that is there can't be joined."""
    topics = [prefix + topic for topic in TOPICS]
    admin = AdminClient({**(settings or {}), "bootstrap.servers": bootstrap})
    try:
        config = {**_NEEDED, "retention.ms": str(round(retention_s * 1000))}
        made = admin.create_topics([NewTopic(topic, partitions, replicas, config=config) for topic in topics])
        fresh = {topic for topic, future in made.items() if _is_new(future)}
        counts = _listed(admin, topics)
        _check(admin, [topic for topic in topics if topic not in fresh], counts=counts, partitions=partitions)
    except KafkaException as error:
        raise SourceError(f"--bootstrap {bootstrap}: {error}; start the broker, or ask for what it allows") from error
    return {topic: "made" if topic in fresh else "there already" for topic in topics}


def _is_new(future: Any) -> bool:
    """False = the topic was there. Asked of the creation itself: a broker's list of topics lags behind."""
    try:
        future.result(_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise
    return True


def _listed(admin: AdminClient, topics: Sequence[str]) -> dict[str, int]:
    """Topic -> partitions, once the broker lists them all: then a joiner that starts now finds them."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        known = admin.list_topics(timeout=_TIMEOUT_S).topics
        if all(topic in known for topic in topics):
            return {topic: len(known[topic].partitions) for topic in topics}
        if time.monotonic() > deadline:
            raise SourceError(f"topics: the broker does not list {[topic for topic in topics if topic not in known]}; look at its log")


def _check(admin: AdminClient, topics: Sequence[str], *, counts: Mapping[str, int], partitions: int) -> None:
    for topic in topics:
        if counts[topic] != partitions:
            raise SourceError(f"topic {topic}: has {counts[topic]} partitions, not {partitions}; all four topics need the same number")
    described = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic) for topic in topics]) if topics else {}
    for resource, future in described.items():
        found = future.result(_TIMEOUT_S)
        for key, wanted in _NEEDED.items():
            if found[key].value != wanted:
                raise SourceError(f"topic {resource.name}: {key} is {found[key].value}, not {wanted}; set it with your Kafka tools")
