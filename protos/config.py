"""Reading the YAML files that users write: unknown keys refused with the nearest name, values traced to where they came from."""

import difflib
import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from protos.errors import ConfigError

__all__ = ["StrictModel", "apply_overrides", "digest", "load_yaml", "nearest", "parse", "provenance"]


class StrictModel(pydantic.BaseModel):
    """Base of every model of a user's file: frozen, unknown keys refused, no NaN or infinity."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
# What PyYAML raises for text that is no YAML: its own errors, and what escapes it for impossible dates, wrong tags and deep nesting.
_NO_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises ConfigError if the file is absent, is no YAML, repeats a key, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a YAML file") from error
    try:
        loaded = yaml.load(text, Loader=_UniqueKeyLoader)
    except _NO_YAML as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())}); mend the file") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: holds {type(loaded).__name__}, not a mapping of sections; begin with `task: NAME`")
    return loaded


def parse(model: type[ModelT], data: object, *, where: str) -> ModelT:
    """`data` as a `model`.

    `where` is the dotted path of `data` in its file. Raises ConfigError with one line a fault: path, value, remedy.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_fault(model, fault, where) for fault in error.errors(include_url=False))) from error


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`data` with `dotted.name=value` flags laid over it; a value is read as YAML.

    Raises ConfigError for a flag without `=`, with an empty name in its path, with a value that is no YAML or has no canonical form,
    or one that descends into something that is no mapping.
    """
    result = json.loads(json.dumps(data))
    for flag in overrides:
        name, equals, text = flag.partition("=")
        *parents, last = name.split(".")
        if not equals or not all((*parents, last)):
            raise ConfigError(f"--set {flag}: not of the form section.key=value")
        node = result
        for parent in parents:
            # A section that stands in the file without content is null.
            section = {} if node.get(parent) is None else node[parent]
            if not isinstance(section, dict):
                raise ConfigError(f"--set {flag}: `{parent}` holds a value, not a section; name a key of a section")
            node[parent], node = section, section
        node[last] = _flag_value(flag, text)
    return result


def provenance(
    model: pydantic.BaseModel, *, given: Mapping[str, Any], flags: Iterable[str] = (), prefix: str = ""
) -> list[tuple[str, Any, str]]:
    """Every value of a parsed config as (dotted name, value, origin), origin one of "flag", "file", "default"."""
    flagged = sorted({flag.partition("=")[0] for flag in flags})
    rows: list[tuple[str, Any, str]] = []
    for name in type(model).model_fields:
        value, dotted = getattr(model, name), f"{prefix}{name}"
        if isinstance(value, pydantic.BaseModel):
            inner = given.get(name, {})
            rows += provenance(value, given=inner if isinstance(inner, Mapping) else {}, flags=flagged, prefix=f"{dotted}.")
            continue
        by_flag = any(f"{flag}.".startswith(f"{dotted}.") or dotted.startswith(f"{flag}.") for flag in flagged)
        rows.append((dotted, value, "default" if name not in given else "flag" if by_flag else "file"))
    return rows


def digest(data: object) -> str:
    """SHA-256, as 64 hex digits, of the canonical JSON of plain data: the same for every spelling of the same YAML."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a name that is not known: the nearest one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known) or 'none'}"


def _flag_value(flag: str, text: str) -> Any:
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
        digest(value)
    except (*_NO_YAML, TypeError) as error:
        raise ConfigError(f"--set {flag}: {' '.join(str(error).split())}; give a YAML value, dates quoted, numbers finite") from error
    return value


def _fault(model: type[pydantic.BaseModel], fault: Any, where: str) -> str:
    path = ".".join([where, *(str(part) for part in fault["loc"])]) if where else ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key; {nearest(str(fault['loc'][-1]), _fields_at(model, fault['loc'][:-1]))}"
    if fault["type"] == "missing":
        return f"{path}: missing; add it"
    return f"{path}: {fault['input']!r} is refused: {fault['msg']}"


def _fields_at(model: Any, path: Sequence[object]) -> list[str]:
    """Names of the fields of the model that stands at `path` below `model` (lists, mappings and unions are looked through)."""
    models = [model]
    for part in path:
        models = [found for m in models if part in m.model_fields for found in _models_in(m.model_fields[part].annotation)] or models
    return [name for m in models for name in m.model_fields]


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key `{key}` stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
