"""Targets: conditions on named features, read without running anything, asked of the encoded vector that is logged."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandits.features import FeaturesSection, Schema
from protos.config import parse
from protos.errors import ConfigError
from serving.traffic.target import target

SCHEMA = Schema.of(
    parse(
        FeaturesSection,
        {
            "context": [
                {"name": "weights", "size": 3},
                {"name": "member", "type": "bool"},
                {"name": "country", "type": "category", "vocabulary": ["de", "fr", "it"]},
                {"name": "city", "type": "category", "buckets": 64},
                {"name": "age"},
                {"name": "price", "default": 1.0},
            ]
        },
        where="features",
    )
)
ANN = {"weights": [0.1, 0.5, -2.0], "member": True, "country": "de", "city": "Köln", "age": 35.0}


def holds(text: str, **features: Any) -> bool:
    context = SCHEMA.encode_context({**ANN, **features}).vector.astype("<f4").tobytes()
    return target(text, SCHEMA, where="target")(context)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("member", True),
        ("not member", False),
        ("country == 'de'", True),
        ('country != "de"', False),
        ("country in ('fr', 'it')", False),
        ("country not in ('fr', 'it')", True),
        ("'de' == country", True),
        ("city == 'Köln'", True),
        ("city in ['Köln', 'Bonn'] and age > 30", True),
        ("18 <= age < 65", True),
        ("age in (34, 35)", True),
        ("age not in (34, 35)", False),
        ("weights[2] < -1.5", True),
        ("weights[0] == 0.1", True),
        ("age > price", True),
        ("price == 1", True),
        ("member == True", True),
        ("country == 'fr' or (age > 30 and not age > 40)", True),
        ("not (member and country == 'de')", False),
    ],
)
def test_a_target_says_what_it_reads_as(text: str, wanted: bool) -> None:
    assert holds(text) is wanted


def test_a_word_outside_the_vocabulary_is_none_of_it() -> None:
    assert not holds("country in ('de', 'fr', 'it')", country="es")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age",
        "country",
        "weights > 1",
        "weights[3] > 1",
        "aeg > 1",
        "country == 'dd'",
        "country > 'de'",
        "country == age",
        "country == 1",
        "age == 'de'",
        "age > 1 if member else False",
        "__import__('os').system('true')",
        "age.real > 1",
        "(lambda: True)()",
        "[x for x in (1,)] == 1",
        "age > 1; member",
        "age := 1",
        "age is 1",
        "age in 1",
        "age in ()",
        "member and",
        "f'{age}' == 'x'",
        "age ** 2 > 1",
        "a\0b",
        "not " * 200 + "member",
        "(" * 400 + "member" + ")" * 400,
    ],
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^traffic\.experiments\.e\.target: "):
        target(text, SCHEMA, where="traffic.experiments.e.target")


@given(st.text(max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert target(text, SCHEMA, where="target")(bytes(4 * SCHEMA.context_size)) in (True, False)


NUMBERS = st.floats(-3, 3, width=32)


@given(age=NUMBERS, price=NUMBERS, member=st.booleans())
def test_conditions_combine_as_pythons_own_do(age: float, price: float, member: bool) -> None:
    text = "(age < price or member) and not (age == price) and -2 <= age"
    assert holds(text, age=age, price=price, member=member) is ((age < price or member) and age != price and age >= -2)
