"""Which partitions this process derives, where several share the work: membership of a Kafka consumer group. Touches the network.

Only the topic of the decisions is subscribed, and never read: partition p of it stands for partition p of all topics, so everything
about one unit is derived in one place. Reading is the source's, by offsets from the tables. The assignment is cooperative: what a member
keeps in a rebalance it goes on deriving. With a name (static membership) a member that comes back within `session_s` finds its
partitions as it left them, and nobody else moves.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from attribution.errors import Fenced, SourceError

__all__ = ["GROUP", "Membership"]

GROUP = "slateloop-attribution"
_LEAD_TOPIC = "decisions"
# Another process has joined under this member's name, or the group has given its partitions away.
_REPLACED = (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError._FATAL)


class Membership:
    """One member of a group. `settings` are librdkafka's own; `name` makes the member a static one (None = a new one each time)."""

    def __init__(
        self,
        bootstrap: str,
        *,
        group: str = GROUP,
        name: str | None = None,
        session_s: float = 10.0,
        settings: Mapping[str, Any] | None = None,
        prefix: str = "",
    ) -> None:
        own: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": round(session_s * 1000),
            "heartbeat.interval.ms": round(session_s * 1000 / 4),
            "enable.auto.commit": False,
            "error_cb": self._note,
        }
        if name is not None:
            own["group.instance.id"] = name
        self._name = name
        self._owned: set[int] = set()
        self._fault: KafkaError | None = None
        self._consumer = Consumer({**(settings or {}), **own})
        self._consumer.subscribe([prefix + _LEAD_TOPIC], on_assign=self._gain, on_revoke=self._lose, on_lost=self._lose)

    def owned(self) -> frozenset[int]:
        """Numbers of the partitions that are this member's now; to be asked before each micro-batch, which is when they can change.

        Raises Fenced if another process has taken this member's name, SourceError if the group refuses it.
        """
        message = self._consumer.poll(0)
        if message is not None and message.error() is not None:
            self._note(message.error())
        if self._fault is not None and self._fault.code() in _REPLACED:
            raise Fenced(
                f"--member {self._name}: another process has joined the group under this name ({self._fault}); stop one of the two"
            )
        if self._fault is not None:
            raise SourceError(f"group: {self._fault}; mend the broker or the settings, and start again: nothing was skipped")
        return frozenset(self._owned)

    def close(self) -> None:
        """Leaves the group; a static member keeps its partitions for `session_s`."""
        self._consumer.close()

    def _note(self, error: KafkaError) -> None:
        """Keeps an error that ends the membership; the others the client mends itself."""
        if error.fatal() or error.code() in _REPLACED:
            self._fault = error

    def _gain(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        ends = [TopicPartition(p.topic, p.partition, OFFSET_END) for p in partitions]
        consumer.incremental_assign(ends)
        consumer.pause(ends)
        self._owned |= {p.partition for p in partitions}

    def _lose(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._owned -= {p.partition for p in partitions}
        try:
            consumer.incremental_unassign(list(partitions))
        except KafkaException:
            # The assignment is lost already: nothing to give back.
            return
