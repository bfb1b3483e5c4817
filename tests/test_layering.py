"""The import diagram of ARCHITECTURE.md, read from the code. Anything else fails."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "protos": {"protos"},
    "bandits": {"bandits", "protos"},
    "serving": {"serving", "bandits", "protos"},
    "attribution": {"attribution", "protos"},
    "ope": {"ope", "bandits", "protos"},
}
# Libraries that touch the world or belong to one room, and the rooms that may use them.
ONLY_IN = {
    "grpc": {"serving", "protos"},
    "confluent_kafka": {"attribution", "serving"},
    "deltalake": {"attribution", "protos"},
    "jax": {"bandits", "serving"},
    "sklearn": {"ope", "serving"},
    "structlog": {"serving"},
}
FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib", "torch"}
# Files that compute and must stay callable from a notebook: no transport, no clock, no environment.
PURE = (
    *(
        f"bandits/{name}.py"
        for name in ("policy", "slates", "quantise", "keys", "win_probability", "features", "preselection", "marginals", "continuous")
    ),
    "bandits/training.py",
    "bandits/explained.py",
    "bandits/snapshots.py",
    "protos/framing.py",
    "serving/engine.py",
    "serving/validate.py",
    "serving/decide.py",
    "serving/record.py",
    "serving/explain.py",
    "serving/wire.py",
    "attribution/join.py",
    "ope/estimators.py",
    "ope/gate/checks.py",
    "ope/gate/decide.py",
    "ope/gate/evidence.py",
    "bandits/traffic.py",
)
WORLD = {"grpc", "confluent_kafka", "deltalake", "time", "os", "random", "socket", "subprocess", "threading"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are flat, not relative"
            yield (node.module or "").split(".")[0]


def sources(room: str) -> list[Path]:
    return [path for path in (ROOT / room).rglob("*.py") if not path.stem.endswith(("_pb2", "_pb2_grpc"))]


def violations(room: str, names: set[str]) -> set[str]:
    other_rooms = (names & set(MAY_IMPORT)) - MAY_IMPORT[room]
    libraries = {name for name in names & set(ONLY_IN) if room not in ONLY_IN[name]}
    return other_rooms | libraries | (names & FORBIDDEN)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_the_diagram_allows(room: str) -> None:
    found = {str(path.relative_to(ROOT)): bad for path in sources(room) if (bad := violations(room, set(imports(path))))}
    assert sources(room)
    assert not found


PURE_ROOMS = ("bandits/policies", "bandits/wrappers", "bandits/effects", "bandits/personalise")


@pytest.mark.parametrize("path", [*PURE, *(str(p.relative_to(ROOT)) for room in PURE_ROOMS for p in (ROOT / room).glob("*.py"))])
def test_a_file_that_computes_touches_no_world(path: str) -> None:
    assert not set(imports(ROOT / path)) & WORLD


def test_the_check_finds_a_forbidden_import() -> None:
    assert violations("attribution", {"bandits", "polars"}) == {"bandits"}
    assert violations("ope", {"serving", "pickle"}) == {"serving", "pickle"}
    assert violations("bandits", {"grpc"}) == {"grpc"}
