"""Which partition an event belongs to: murmur2 of its unit id, as every Java client has it by default. Pure.

librdkafka's own default is another (CRC-32): a producer built on it must be told `partitioner=murmur2_random`, or rewards from a Java
service never meet their decisions.
"""

__all__ = ["murmur2", "partition_of"]

_MULTIPLIER, _SEED, _MASK = 0x5BD1E995, 0x9747B28C, 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """MurmurHash2 of 32 bits with Kafka's seed, as an unsigned number."""
    hashed = (_SEED ^ len(key)) & _MASK
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * _MULTIPLIER & _MASK
        word = (word ^ (word >> 24)) * _MULTIPLIER & _MASK
        hashed = (hashed * _MULTIPLIER & _MASK) ^ word
    if whole < len(key):
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _MASK
    hashed = (hashed ^ (hashed >> 13)) * _MULTIPLIER & _MASK
    return hashed ^ (hashed >> 15)


def partition_of(unit_id: str, partitions: int) -> int:
    """The partition of a unit, 0 to partitions - 1."""
    return (murmur2(unit_id.encode()) & 0x7FFFFFFF) % partitions
