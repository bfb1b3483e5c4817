"""The topics as the join needs them: made where absent, checked where they are there. Touches the network.

Append time must be the broker's own, since lateness is judged by it; all topics have the same number of partitions, since partition p of
each is derived together; and a record must outlive the longest stop of the joiner.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException
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
        known = admin.list_topics(timeout=_TIMEOUT_S).topics
        config = {**_NEEDED, "retention.ms": str(round(retention_s * 1000))}
        absent = [topic for topic in topics if topic not in known]
        made = admin.create_topics([NewTopic(topic, partitions, replicas, config=config) for topic in absent]) if absent else {}
        for future in made.values():
            future.result(_TIMEOUT_S)
        present = [topic for topic in topics if topic in known]
        _check(admin, present, counts={topic: len(known[topic].partitions) for topic in present}, partitions=partitions)
    except KafkaException as error:
        raise SourceError(f"--bootstrap {bootstrap}: {error}; start the broker, or ask for what it allows") from error
    return {topic: "made" if topic in absent else "there already" for topic in topics}


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
