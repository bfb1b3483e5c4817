"""The tables of POLICIES.md, from the catalogs: `python -m bandits.policy_table` writes them anew. The rest is written by hand."""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

from bandits.catalog import CATALOG, Entry
from bandits.wrappers.declared import WRAPPERS, Wrapper

__all__ = ["PAGE", "policy_table", "with_tables", "wrapper_table"]

#: The page that holds the tables.
PAGE = Path(__file__).with_name("POLICIES.md")
_HERE = Path(__file__).resolve().parent


def policy_table(catalog: Mapping[str, Entry]) -> str:
    """One row a policy: name and source, what it does, whether its update is exact, what its logged propensity is."""
    rows = [
        (f"[`{name}`]({_source(entry.factory)})", _summary(entry.factory), "yes" if entry.exact_update else "no", entry.propensity)
        for name, entry in sorted(catalog.items())
    ]
    return _table(("policy", "what it plays", "exact update", "logged propensity"), rows)


def wrapper_table(wrappers: Mapping[str, Wrapper]) -> str:
    """One row a wrapper: name and source, what it does, its settings."""
    rows = []
    for name, wrapper in sorted(wrappers.items()):
        function = getattr(importlib.import_module(wrapper.settings.__module__), name)
        settings = ", ".join(f"`{field}`" for field in wrapper.settings.model_fields)
        rows.append((f"[`{name}`]({_source(function)})", _summary(function), settings))
    return _table(("wrapper", "what it makes of a policy", "settings"), rows)


def with_tables(page: str) -> str:
    """The page with its tables as the catalogs have them. Each lies between `<!-- NAME -->` and `<!-- /NAME -->`."""
    for name, table in (("policies", policy_table(CATALOG)), ("wrappers", wrapper_table(WRAPPERS))):
        head, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, tail = rest.partition(f"<!-- /{name} -->")
        page = f"{head}{begin}{table}{end}{tail}"
    return page


def _summary(function: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _source(function: object) -> str:
    """Path of the file that defines it, from the page's folder; for one that a file does not define, its module's name."""
    path = Path(inspect.getsourcefile(function) or "").resolve()  # type: ignore[arg-type]
    return path.relative_to(_HERE).as_posix() if path.is_relative_to(_HERE) else path.name


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
