"""The page on choosing a policy: its tables are the catalogs', and what it names exists."""

import re

import pytest
import yaml

from bandits.catalog import CATALOG
from bandits.config import PolicySection, parse_task
from bandits.policy_table import PAGE, with_tables
from bandits.wrappers.declared import WRAPPERS
from protos.task import TaskFile

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_catalogs() -> None:
    assert with_tables(TEXT) == TEXT, "POLICIES.md is behind the catalog: run `python -m bandits.policy_table`"


def test_the_tables_name_every_policy_and_wrapper_with_a_source_and_a_sentence() -> None:
    for name in (*CATALOG, *WRAPPERS):
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| [`{name}`](")]
        cells = re.split(r"(?<!\\)\|", row)
        (path,) = re.findall(r"\]\((.+?)\)", cells[1])
        assert (PAGE.parent / path).exists() and len(cells[2].split()) >= 4, f"{name}: its factory says nothing of itself"


@pytest.mark.parametrize(("was", "becomes"), [("| [`softmax`]", "| [`sofmax`]"), ("| yes | exact |", "| no | exact |")])
def test_a_table_that_is_behind_is_seen(was: str, becomes: str) -> None:
    behind = TEXT.replace(was, becomes, 1)
    assert behind != TEXT and with_tables(behind) == TEXT


def test_the_policies_that_never_cut_a_list_are_named() -> None:
    (names,) = re.findall(r"^Some policies never cut long lists, for they do not play by mean and scale: (.*)\.$", TEXT, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", names)) == {name for name, entry in CATALOG.items() if not entry.ranks}


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))
def test_what_the_page_says_to_write_is_accepted(block: str) -> None:
    assert parse_task(TaskFile(name="t", tenant="default", sections=yaml.safe_load(block), digest="d")).spec.name in CATALOG


def test_the_settings_that_the_page_names_exist() -> None:
    for dotted in re.findall(r"`policy\.(\w+)`", TEXT):
        assert dotted in PolicySection.model_fields
