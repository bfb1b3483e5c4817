"""Features: declared by name, encoded to one vector in schema order. Pure; standardisation belongs to the policy's state."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pydantic

from bandits.errors import FeatureError
from protos import config

__all__ = ["Encoded", "Feature", "FeaturesSection", "Schema"]

Name = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=128)]
FeatureInput = float | bool | str | Sequence[float]
# float32 is what travels and what is logged; a larger number would become infinite on the way.
_LARGEST = float(np.finfo(np.float32).max)


class Feature(config.StrictModel):
    """One declared feature."""

    name: Name
    #: `float`: `size` numbers. `bool`: 0 or 1. `category`: one-hot, over `vocabulary` with a last place for every other word, or over
    #: hash `buckets`.
    type: Literal["float", "bool", "category"] = "float"
    #: How many numbers a `float` feature has, 1..65,536.
    size: int = pydantic.Field(default=1, ge=1, le=65_536)
    #: Words of a `category`, in the order of their places.
    vocabulary: tuple[Name, ...] = ()
    #: Hash places of a `category` without vocabulary, 2..65,536.
    buckets: int | None = pydantic.Field(default=None, ge=2, le=65_536)
    #: What a missing value counts as: a number, true/false, or a word. Missing features are counted.
    default: float | bool | str | None = None

    @pydantic.model_validator(mode="after")
    def _is_consistent(self) -> "Feature":
        if self.type == "category" and bool(self.vocabulary) == (self.buckets is not None):
            raise ValueError(f"feature {self.name!r}: a category needs `vocabulary` or `buckets`, one of the two")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"feature {self.name!r}: a word stands twice in `vocabulary`")
        if self.type != "category" and (self.vocabulary or self.buckets is not None):
            raise ValueError(f"feature {self.name!r}: `vocabulary` and `buckets` are for type `category`; set the type")
        if self.type != "float" and self.size != 1:
            raise ValueError(f"feature {self.name!r}: `size` is for type `float`; drop it")
        try:
            _encode_one(self, self.default, path="default")
        except FeatureError as error:
            raise ValueError(f"feature {self.name!r}: {error}") from error
        return self

    @property
    def width(self) -> int:
        """Numbers that the feature takes in the encoded vector."""
        if self.type == "category":
            return self.buckets if self.buckets is not None else len(self.vocabulary) + 1
        return self.size


class FeaturesSection(config.StrictModel):
    """The section `features` of a task's file."""

    #: Features of the request, in the order of the encoded vector.
    context: tuple[Feature, ...] = ()
    #: Features of each candidate, in the order of the encoded vector.
    action: tuple[Feature, ...] = ()
    #: The task's catalogue: ids of the actions that exist. A request may name others; they are cold until they are listed.
    actions: tuple[Name, ...] = ()

    @pydantic.model_validator(mode="after")
    def _has_no_double(self) -> "FeaturesSection":
        for key, names in (
            ("context", [f.name for f in self.context]),
            ("action", [f.name for f in self.action]),
            ("actions", self.actions),
        ):
            double = {name for name in names if list(names).count(name) > 1}
            if double:
                raise ValueError(f"`{key}`: {sorted(double)[0]!r} stands twice; drop one")
        return self


class Encoded(NamedTuple):
    """`vector` f32[width of the schema]; `defaulted`: names of the features that were missing."""

    vector: np.ndarray
    defaulted: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Schema:
    """The features of a task. `digest` changes with anything that changes an encoded vector."""

    context: tuple[Feature, ...]
    action: tuple[Feature, ...]
    actions: tuple[str, ...]

    @classmethod
    def of(cls, section: FeaturesSection) -> "Schema":
        """The schema that a task's file declares."""
        return cls(context=section.context, action=section.action, actions=section.actions)

    @property
    def digest(self) -> str:
        """SHA-256 of the declared features, 64 hex digits. The catalogue is not part of it: actions come and go."""
        return config.digest([[feature.model_dump(mode="json") for feature in features] for features in (self.context, self.action)])

    @property
    def context_size(self) -> int:
        """d: numbers in an encoded context."""
        return sum(feature.width for feature in self.context)

    @property
    def action_feature_size(self) -> int:
        """f: numbers in an encoded candidate; 0 = candidates have none."""
        return sum(feature.width for feature in self.action)

    def encode_context(self, features: Mapping[str, FeatureInput]) -> Encoded:
        """The context vector of named features. Raises FeatureError for an unknown name, a wrong type or size, NaN."""
        return _encode(self.context, features, path="context.features")

    def encode_action(self, features: Mapping[str, FeatureInput], *, path: str = "candidate_features") -> Encoded:
        """The vector of one candidate's named features; `path` is where they stand in the request, for errors."""
        return _encode(self.action, features, path=path)


def _encode(schema: Sequence[Feature], features: Mapping[str, FeatureInput], *, path: str) -> Encoded:
    known = {feature.name for feature in schema}
    for name in features:
        if name not in known:
            raise FeatureError(f"{path}.{name}: unknown feature; {config.nearest(name, known)}", field=f"{path}.{name}")
    parts, defaulted = [], []
    for feature in schema:
        value = features.get(feature.name)
        if value is None:
            defaulted.append(feature.name)
            value = feature.default
        parts.append(_encode_one(feature, value, path=f"{path}.{feature.name}"))
    vector = np.concatenate(parts) if parts else np.zeros(0)
    return Encoded(vector.astype(np.float32), tuple(defaulted))


def _encode_one(feature: Feature, value: Any, *, path: str) -> np.ndarray:
    if feature.type == "category":
        return _one_hot(feature, value, path=path)
    if value is None:
        return np.zeros(feature.width)
    if feature.type == "bool":
        if not isinstance(value, bool):
            raise _refused(path, value, "give true or false")
        return np.array([float(value)])
    return _numbers(feature, value, path=path)


def _numbers(feature: Feature, value: Any, *, path: str) -> np.ndarray:
    remedy = f"give {'a number' if feature.size == 1 else f'{feature.size} numbers'}"
    if isinstance(value, str | bytes | bool):
        raise _refused(path, value, remedy)
    try:
        numbers = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise _refused(path, value, remedy) from error
    if numbers.size == 1 and feature.size > 1 and value is feature.default:
        numbers = np.full(feature.size, numbers[0])
    if numbers.size != feature.size:
        raise _refused(path, f"{numbers.size} numbers", f"give {feature.size}")
    if not np.all(np.abs(numbers) <= _LARGEST):
        bad = next(float(number) for number in numbers if not abs(number) <= _LARGEST)
        raise _refused(
            path, bad, "give finite numbers that fit float32" if math.isfinite(bad) else "give finite numbers; leave a missing one out"
        )
    return numbers


def _one_hot(feature: Feature, value: Any, *, path: str) -> np.ndarray:
    places = np.zeros(feature.width)
    if value is None:
        return places
    if not isinstance(value, str):
        raise _refused(path, value, "give a word")
    if feature.buckets is not None:
        place = int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little") % feature.buckets
    else:
        place = feature.vocabulary.index(value) if value in feature.vocabulary else len(feature.vocabulary)
    places[place] = 1.0
    return places


def _refused(path: str, value: object, remedy: str) -> FeatureError:
    return FeatureError(f"{path}: {value!r} is refused; {remedy}", field=path)
