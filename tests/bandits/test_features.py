"""Features: each type, its default, and every wrong value refused by its path."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest

from bandits.errors import FeatureError
from bandits.features import FeaturesSection, Schema
from protos import config
from protos.errors import ConfigError

CONTEXT: list[dict[str, Any]] = [
    {"name": "age", "type": "float", "default": 30.0},
    {"name": "pixels", "type": "float", "size": 3, "default": 0.5},
    {"name": "member", "type": "bool", "default": True},
    {"name": "country", "type": "category", "vocabulary": ["de", "fr"], "default": "fr"},
    {"name": "word", "type": "category", "buckets": 4},
]


def schema(context: list[dict[str, Any]] = CONTEXT, **section: Any) -> Schema:
    return Schema.of(config.parse(FeaturesSection, {"context": context, **section}, where="features"))


def test_every_type_is_encoded_in_schema_order() -> None:
    encoded = schema().encode_context({"word": "x", "country": "de", "member": False, "pixels": [1, 2.5, -3], "age": 41})
    assert encoded.vector.dtype == np.float32 and encoded.defaulted == ()
    np.testing.assert_array_equal(encoded.vector[:8], [41, 1, 2.5, -3, 0, 1, 0, 0])
    assert sorted(encoded.vector[8:]) == [0, 0, 0, 1] and len(encoded.vector) == schema().context_size == 12


def test_what_is_missing_takes_its_default_and_is_named() -> None:
    encoded = schema().encode_context({"age": 1.0})
    np.testing.assert_array_equal(encoded.vector, [1, 0.5, 0.5, 0.5, 1, 0, 1, 0, 0, 0, 0, 0])
    assert encoded.defaulted == ("pixels", "member", "country", "word")
    none: Any = {"age": None, "member": None}
    assert schema().encode_context(none).defaulted == tuple(feature["name"] for feature in CONTEXT)


def test_zero_and_false_are_data_not_absence() -> None:
    encoded = schema().encode_context({"age": 0.0, "member": False, "pixels": [0, 0, 0], "country": "de", "word": ""})
    assert encoded.defaulted == () and encoded.vector[0] == encoded.vector[4] == 0.0


def test_a_word_outside_the_vocabulary_has_the_last_place() -> None:
    np.testing.assert_array_equal(schema().encode_context({"country": "it"}).vector[5:8], [0, 0, 1])


def test_hashed_words_have_one_place_that_does_not_change() -> None:
    """By the definition, so that a log can be read for years: the first eight bytes of BLAKE2b, little-endian, modulo the buckets."""
    for word in ("a", "b", "c", "ä", ""):
        place = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little") % 4
        np.testing.assert_array_equal(schema().encode_context({"word": word}).vector[8:], np.arange(4) == place)


BAD_VALUES: list[tuple[str, Any, str]] = [
    ("age", "41", "give a number"),
    ("age", True, "give a number"),
    ("age", math.nan, "finite"),
    ("age", math.inf, "finite"),
    ("age", 1e39, "float32"),
    ("age", 10**400, "give a number"),
    ("age", [1.0, 2.0], "give 1"),
    ("age", {"a": 1}, "give a number"),
    ("pixels", [1.0, 2.0], "give 3"),
    ("pixels", 1.0, "give 3"),
    ("pixels", [], "give 3"),
    ("pixels", ["a", "b", "c"], "give 3 numbers"),
    ("pixels", [1.0, math.nan, 2.0], "finite"),
    ("pixels", b"\0\0\0", "give 3 numbers"),
    ("member", 1, "true or false"),
    ("member", "yes", "true or false"),
    ("country", 3, "give a word"),
    ("country", True, "give a word"),
]


@pytest.mark.parametrize(("name", "value", "remedy"), BAD_VALUES, ids=lambda value: repr(value)[:20])
def test_a_wrong_value_is_refused_with_its_path_and_a_remedy(name: str, value: Any, remedy: str) -> None:
    with pytest.raises(FeatureError, match=remedy) as refused:
        schema().encode_context({name: value})
    assert refused.value.field == f"context.features.{name}" and str(refused.value).startswith(f"context.features.{name}: ")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(FeatureError, match=r"context\.features\.contry: unknown feature; did you mean `country`\?"):
        schema().encode_context({"contry": "de"})
    with pytest.raises(FeatureError, match="known: none"):
        schema([]).encode_context({"x": 1.0})
    with pytest.raises(FeatureError, match=r"candidate_features\[2\]\.prize: unknown feature; did you mean `price`") as refused:
        schema(action=[{"name": "price"}]).encode_action({"prize": 1.0}, path="candidate_features[2]")
    assert refused.value.field == "candidate_features[2].prize"


def test_no_features_are_an_empty_vector() -> None:
    assert schema([]).encode_context({}).vector.shape == (0,) and schema([]).action_feature_size == 0


BAD_SECTIONS: list[tuple[dict[str, Any], str]] = [
    ({"context": [{"name": "x", "size": 0}]}, "features.context.0.size"),
    ({"context": [{"name": "x", "typ": "bool"}]}, "did you mean `type`"),
    ({"context": [{"name": "x", "type": "category"}]}, "needs `vocabulary` or `buckets`"),
    ({"context": [{"name": "x", "type": "category", "buckets": 4, "vocabulary": ["a"]}]}, "one of the two"),
    ({"context": [{"name": "x", "type": "category", "vocabulary": ["a", "a"]}]}, "stands twice"),
    ({"context": [{"name": "x", "buckets": 4}]}, "set the type"),
    ({"context": [{"name": "x", "type": "bool", "size": 2}]}, "drop it"),
    ({"context": [{"name": "x", "type": "bool", "default": 0.0}]}, "true or false"),
    ({"context": [{"name": "x", "default": "none"}]}, "give a number"),
    ({"context": [{"name": "x", "default": 1e300}]}, "float32"),
    ({"context": [{"name": "x", "default": math.nan}]}, "x"),
    ({"context": [{"name": "x", "type": "category", "buckets": 2, "default": 1.0}]}, "give a word"),
    ({"context": [{"name": "x"}, {"name": "x"}]}, "'x' stands twice"),
    ({"actions": ["a", "a"]}, "'a' stands twice"),
    ({"actions": [1]}, "features.actions.0"),
    ({"context": [{}]}, "features.context.0.name: missing"),
    ({"contxt": []}, "did you mean `context`"),
]


@pytest.mark.parametrize(("section", "says"), BAD_SECTIONS, ids=lambda value: str(value)[:60])
def test_a_section_that_makes_no_sense_is_refused_before_any_request(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse(FeaturesSection, section, where="features")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "context",
    [
        CONTEXT[::-1],
        CONTEXT[:-1],
        [{**CONTEXT[0], "name": "years"}, *CONTEXT[1:]],
        [{**CONTEXT[0], "default": 31.0}, *CONTEXT[1:]],
        [CONTEXT[0], {**CONTEXT[1], "size": 4}, *CONTEXT[2:]],
        [*CONTEXT[:3], {**CONTEXT[3], "vocabulary": ["fr", "de"]}, CONTEXT[4]],
        [*CONTEXT[:4], {**CONTEXT[4], "buckets": 5}],
    ],
    ids=["order", "fewer", "name", "default", "size", "vocabulary", "buckets"],
)
def test_the_digest_changes_with_whatever_changes_a_vector(context: list[dict[str, Any]]) -> None:
    assert schema(context).digest != schema().digest


def test_the_digest_does_not_change_with_the_catalogue_or_the_spelling() -> None:
    assert schema(actions=["a"]).digest == schema().digest
    assert schema([{**CONTEXT[0], "default": 30}, *CONTEXT[1:]]).digest == schema().digest
    assert schema([], action=CONTEXT).digest != schema().digest
