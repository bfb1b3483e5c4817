"""Who takes part in an experiment: a condition on named features, read once, asked of encoded contexts. Pure.

    country in ("de", "fr") and 18 <= age < 65 and not member
    weights[2] > 0.5 or plan == "free"

Comparisons, `in`, `and`, `or`, `not`, and nothing else. The text is read as a Python expression and walked over; it is never run. It is
asked of the very vector that is logged, so who was eligible follows from a decision's record. A number is compared as the float32 that it
is in the vector; of a hashed category, words that share a place are one word.
"""

import ast
import operator
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from bandits.errors import FeatureError
from bandits.features import Feature, Schema
from protos import config
from protos.errors import ConfigError

__all__ = ["Target", "places_of", "target"]

#: Asks an encoded context, little-endian float32 [d], as bytes.
Target = Callable[[bytes], bool]
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_HALF = 0.5
# Nested deeper than anyone writes, and less deep than the interpreter's own limit.
_DEEPEST = 50


class _Number(NamedTuple):
    """A number of the vector, at a byte."""

    at: int

    def of(self, context: bytes) -> float:
        return float(struct.unpack_from("<f", context, self.at)[0])


class _Word(NamedTuple):
    """A category, beginning at a byte."""

    feature: Feature
    at: int


def places_of(schema: Schema) -> dict[str, tuple[Feature, int]]:
    """Each context feature by name, and the byte of an encoded context where it begins."""
    found, at = {}, 0
    for feature in schema.context:
        found[feature.name] = (feature, at)
        at += 4 * feature.width
    return found


def target(text: str, schema: Schema, *, where: str) -> Target:
    """The condition of a text. Raises ConfigError, naming `where` it stands, for anything else than a condition on its features."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _Reader(schema, where).condition(tree.body, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{where}: {text!r} is no condition ({error}); write `feature > 1 and other in ('a', 'b')`") from error


class _Reader:
    def __init__(self, schema: Schema, where: str) -> None:
        self._places, self._where = places_of(schema), where

    def condition(self, node: ast.expr, depth: int) -> Target:
        if depth > _DEEPEST:
            raise self._refused(node, "is nested too deep")
        match node:
            case ast.BoolOp(op=ast.And()):
                parts = [self.condition(part, depth + 1) for part in node.values]
                return lambda context: all(part(context) for part in parts)
            case ast.BoolOp():
                parts = [self.condition(part, depth + 1) for part in node.values]
                return lambda context: any(part(context) for part in parts)
            case ast.UnaryOp(op=ast.Not()):
                inner = self.condition(node.operand, depth + 1)
                return lambda context: not inner(context)
            case ast.Compare():
                return self._comparison(node)
            case ast.Name():
                return self._flag(node)
        raise self._refused(node, "is no condition")

    def _flag(self, node: ast.Name) -> Target:
        feature, at = self._feature(node.id)
        if feature.type != "bool":
            raise self._refused(node, f"is a {feature.type}, not true or false; compare it")
        number = _Number(at)
        return lambda context: number.of(context) > _HALF

    def _comparison(self, node: ast.Compare) -> Target:
        sides = [node.left, *node.comparators]
        parts = [self._pair(left, op, right, node) for left, op, right in zip(sides, node.ops, sides[1:], strict=False)]
        return parts[0] if len(parts) == 1 else lambda context: all(part(context) for part in parts)

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr, node: ast.Compare) -> Target:
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, right, wanted=isinstance(op, ast.In))
        compare = _COMPARE.get(type(op))
        if compare is None:
            raise self._refused(node, "compares in a way that targets don't know")
        one, other = self._operand(left), self._operand(right)
        if isinstance(one, _Word) or isinstance(other, _Word):
            return self._same_word(one, op, other, node)
        if isinstance(one, str) or isinstance(other, str):
            raise self._refused(node, "compares a number with a word")
        ask, against = _value(one), _value(other)
        return lambda context: compare(ask(context), against(context))

    def _membership(self, left: ast.expr, right: ast.expr, *, wanted: bool) -> Target:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
            raise self._refused(right, "is no list; write ('a', 'b')")
        asked, listed = self._operand(left), [self._operand(item) for item in right.elts]
        if isinstance(asked, _Word):
            words = [self._place(asked, item, right) for item in listed]
            return lambda context: any(word.of(context) > _HALF for word in words) is wanted
        if not isinstance(asked, _Number) or not all(isinstance(item, float) for item in listed):
            raise self._refused(left, "is no feature that could be in this list")
        numbers = frozenset(listed)
        return lambda context: (asked.of(context) in numbers) is wanted

    def _same_word(self, one: Any, op: ast.cmpop, other: Any, node: ast.Compare) -> Target:
        word, given = (one, other) if isinstance(one, _Word) else (other, one)
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise self._refused(node, "orders words; they are equal or not")
        place, wanted = self._place(word, given, node), isinstance(op, ast.Eq)
        return lambda context: (place.of(context) > _HALF) is wanted

    def _place(self, word: _Word, given: Any, node: ast.expr) -> _Number:
        """Where the vector says that the category is this word."""
        feature = word.feature
        if not isinstance(given, str):
            raise self._refused(node, f"compares the category {feature.name!r} with something that is no word")
        if feature.vocabulary and given not in feature.vocabulary:
            raise ConfigError(f"{self._where}: {given!r} is no word of {feature.name!r}; {config.nearest(given, feature.vocabulary)}")
        try:
            alone = Schema(context=(feature,), action=(), actions=())
            return _Number(word.at + 4 * int(alone.encode_context({feature.name: given}).vector.argmax()))
        except FeatureError as error:
            raise ConfigError(f"{self._where}: {error}") from error

    def _operand(self, node: ast.expr) -> _Number | _Word | float | str:
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return float(np.float32(value))
            case ast.Constant(value=str() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -float(np.float32(value))
            case ast.Name():
                feature, at = self._feature(node.id)
                if feature.type == "category":
                    return _Word(feature, at)
                if feature.width != 1:
                    raise self._refused(node, f"has {feature.width} numbers; name one, `{node.id}[0]`")
                return _Number(at)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as index)):
                feature, at = self._feature(name)
                if feature.type != "float" or not 0 <= index < feature.width:
                    raise self._refused(node, f"is not there; {name!r} is a {feature.type} of {feature.width}")
                return _Number(at + 4 * index)
        raise self._refused(node, "is neither a feature nor a value")

    def _feature(self, name: str) -> tuple[Feature, int]:
        if name not in self._places:
            raise ConfigError(f"{self._where}: {name!r} is no feature of the context; {config.nearest(name, self._places)}")
        return self._places[name]

    def _refused(self, node: ast.expr, fault: str) -> ConfigError:
        return ConfigError(f"{self._where}: `{ast.unparse(node)}` {fault}; a target has comparisons, `in`, `and`, `or`, `not`")


def _value(operand: _Number | float) -> Callable[[bytes], float]:
    return operand.of if isinstance(operand, _Number) else lambda _: operand
