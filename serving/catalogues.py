"""Catalogues that the server holds: ids and features of a task's actions, from the task's file or from a file that is read anew.

    <catalogues>/<task>.yaml
        actions:
          item-1: {price: 2.5, new: true}
          item-2: {}

The version is the digest of the content, so servers that read the same say the same. Decisions hold their candidates written out: a
log needs no catalogue to be read.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import pydantic

from bandits.errors import FeatureError
from bandits.features import Schema
from protos import config
from protos.errors import ConfigError
from serving.candidates import CandidateList
from serving.config import Limits
from serving.errors import RequestRefused
from serving.fields import normal_floats

__all__ = ["Catalogue", "CatalogueFile", "catalogue_of"]

_logger = logging.getLogger(__name__)
Value = float | bool | str | Annotated[list[float], pydantic.Field(min_length=1)]


class Catalogue(NamedTuple):
    """`listed` ids in order, None where there are none; `vectors` each one's encoded features, little-endian float32."""

    version: str
    listed: CandidateList | None
    vectors: Mapping[str, bytes]

    def features(self, actions: Sequence[str]) -> bytes:
        """Encoded features of some of its actions, [K, f]."""
        return b"".join([self.vectors[action] for action in actions])


class _Content(config.StrictModel):
    """What a catalogue's file says."""

    #: Id -> named features; what is missing takes its default.
    actions: dict[Annotated[str, pydantic.StringConstraints(min_length=1, max_length=128)], dict[str, Value]]


def catalogue_of(actions: Mapping[str, Mapping[str, Value]], schema: Schema, limits: Limits) -> Catalogue:
    """The catalogue of named features. Raises ConfigError naming the action at fault."""
    if len(actions) > limits.max_candidates:
        raise ConfigError(f"actions: {len(actions)} are more than limits.max_candidates {limits.max_candidates}; raise it")
    try:
        vectors = {action: _vector(schema, action, features) for action, features in actions.items()}
        listed = CandidateList(tuple(actions)) if actions else None
    except (FeatureError, RequestRefused) as error:
        raise ConfigError(str(error)) from error
    return Catalogue(config.digest({"actions": {name: dict(features) for name, features in actions.items()}}), listed, vectors)


def _vector(schema: Schema, action: str, features: Mapping[str, Value]) -> bytes:
    path = f"actions.{action}"
    return normal_floats(schema.encode_action(features, path=path).vector, field=path).astype("<f4").tobytes()


class CatalogueFile:
    """One task's file. `poll` is called by one thread."""

    def __init__(self, path: Path, *, schema: Schema, limits: Limits) -> None:
        self._path, self._schema, self._limits = path, schema, limits
        self._seen: tuple[int, int] | None = None
        #: Contents that could not be served since the start.
        self.failures = 0

    def read(self) -> Catalogue:
        """What stands in the file. Raises ConfigError."""
        try:
            content = config.parse(_Content, config.load_yaml(self._path), where="")
            return catalogue_of(content.actions, self._schema, self._limits)
        except ConfigError as error:
            raise ConfigError(f"{self._path}: {error}") from error

    def poll(self) -> Catalogue | None:
        """The catalogue, if the file has changed and is sound. One that is not leaves what is served in charge."""
        seen = self._stamp()
        if seen is None or seen == self._seen:
            return None
        self._seen = seen
        try:
            return self.read()
        except ConfigError as error:
            self.failures += 1
            _logger.error("catalogue is not served, the one before stays: %s", error)
            return None

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size
