"""Snapshots: what was encoded is what is decoded, and anything else is refused by name."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from bandits.catalog import PolicySpec, build
from bandits.errors import SnapshotError
from bandits.loaded import encode_snapshot, load_policy, read_snapshot
from bandits.policy import Batch, Dims
from bandits.programs import compilations, update_program
from bandits.snapshots import Draft, decode
from tests.bandits.catalog_cases import by_kind

DIMS = Dims(actions=3, context=2, features=0)
FILES = ("manifest.json", "state.safetensors", "params.safetensors", "golden.safetensors")


def draft(name: str = "linear_thompson", **changes: Any) -> Draft:
    spec = PolicySpec.of(name, {}, floor=0.05, dims=DIMS)
    policy, rng = build(spec), np.random.default_rng(0)
    batch = Batch.of(rng.normal(size=(20, 2)), rng.integers(0, 3, 20), rng.normal(size=20))
    about = {"tenant": "default", "task": "small", "actions": ("a", "b", "c"), "schema_digest": "s", "config_digest": "c", "kind": "change"}
    manifest = {**about, "rows": 20, "cursor": {0: 7, 3: 1}, "created_us": 1, "training_watermark_us": 99, **changes}
    return Draft(spec=spec, state=update_program(spec)(policy.init(), batch), manifest=manifest)


@pytest.fixture(scope="module")
def encoded() -> tuple[str, dict[str, bytes]]:
    return encode_snapshot(draft())


def written(directory: Path, digest: str, files: Mapping[str, bytes]) -> Path:
    path = directory / digest
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def resealed(files: Mapping[str, bytes], **changes: Any) -> tuple[str, dict[str, bytes]]:
    """The files with an honest manifest again: what an attacker, or a bug before publication, would leave behind."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "manifest.json"}
    text = json.dumps({**manifest, **changes}).encode()
    return hashlib.sha256(text).hexdigest(), {**files, "manifest.json": text}


@pytest.mark.parametrize("name", by_kind())
def test_a_snapshot_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    digest, files = encode_snapshot(draft(name))
    assert sorted(files) == sorted(FILES) and list(files)[-1] == "manifest.json"
    snapshot = read_snapshot(written(tmp_path, digest, files))
    assert jax.tree.structure(snapshot.state) == jax.tree.structure(draft(name).state)
    for got, expected in zip(jax.tree.leaves(snapshot.state), jax.tree.leaves(draft(name).state), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert snapshot.manifest.cursor == {0: 7, 3: 1} and snapshot.manifest.spec == draft(name).spec
    load_policy(tmp_path / digest).check_golden(slots=1)


def test_the_digest_is_the_same_for_the_same_content_and_another_for_any_other(encoded: tuple[str, dict[str, bytes]]) -> None:
    assert encode_snapshot(draft()) == encoded
    assert len({encoded[0], encode_snapshot(draft(label="drill"))[0], encode_snapshot(draft(created_us=2))[0]}) == 3


def test_encoding_the_same_policy_again_compiles_nothing() -> None:
    encode_snapshot(draft())
    state = draft()
    before = compilations()
    encode_snapshot(state)
    assert compilations() == before


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_anywhere_is_refused(name: str, encoded: tuple[str, dict[str, bytes]]) -> None:
    digest, files = encoded
    size = len(files[name])
    for position in sorted({*range(0, size, max(size // 100, 1)), size - 1}):
        flipped = bytearray(files[name])
        flipped[position] ^= 1 << position % 8
        with pytest.raises(SnapshotError, match=name):
            decode(digest, {**files, name: bytes(flipped)})


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_longer_file_is_refused(name: str, encoded: tuple[str, dict[str, bytes]]) -> None:
    digest, files = encoded
    for data in (b"", files[name][:1], files[name][: len(files[name]) // 2], files[name][:-1], files[name] + b"\0"):
        with pytest.raises(SnapshotError, match=name):
            decode(digest, {**files, name: data})


@pytest.mark.parametrize("name", FILES)
def test_a_missing_an_extra_and_a_renamed_file_are_refused(name: str, encoded: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    digest, files = encoded
    path = written(tmp_path, digest, files)
    (path / name).rename(path / "other")
    with pytest.raises(SnapshotError, match=name):
        load_policy(path)
    (path / name).write_bytes(files[name])
    with pytest.raises(SnapshotError, match="other"):
        load_policy(path)
    (path / "other").unlink()
    assert load_policy(path).digest == digest


def test_links_and_folders_are_no_files(encoded: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    digest, files = encoded
    path = written(tmp_path, digest, files)
    (path / "state.safetensors").rename(tmp_path / "elsewhere")
    (path / "state.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SnapshotError, match=r"state\.safetensors"):
        load_policy(path)
    (path / "state.safetensors").unlink()
    (path / "state.safetensors").mkdir()
    with pytest.raises(SnapshotError, match=r"state\.safetensors"):
        load_policy(path)


def test_a_folder_that_is_absent_or_has_another_name_is_refused(encoded: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot be read"):
        load_policy(tmp_path / ("0" * 64))
    shutil.move(written(tmp_path, *encoded), tmp_path / ("0" * 64))
    with pytest.raises(SnapshotError, match=r"manifest\.json"):
        load_policy(tmp_path / ("0" * 64))


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, number: float, encoded: tuple[str, dict[str, bytes]]) -> None:
    arrays = safetensors.numpy.load(encoded[1][name])
    key = next(key for key, array in sorted(arrays.items()) if array.dtype.kind == "f" and array.size)
    arrays[key] = np.full_like(arrays[key], number)
    with pytest.raises(SnapshotError, match=name):
        decode(*resealed({**encoded[1], name: safetensors.numpy.save(arrays)}))


@pytest.mark.parametrize("name", FILES[1:])
def test_other_shapes_dtypes_and_names_are_refused(name: str, encoded: tuple[str, dict[str, bytes]]) -> None:
    arrays = safetensors.numpy.load(encoded[1][name])
    key = sorted(arrays)[-1]
    for changed in (
        {**arrays, key: arrays[key][..., None]},
        {**arrays, key: arrays[key].astype(np.float16)},
        {other: array for other, array in arrays.items() if other != key},
        {**arrays, "more": arrays[key]},
    ):
        with pytest.raises(SnapshotError, match=name):
            decode(*resealed({**encoded[1], name: safetensors.numpy.save(changed)}))
    with pytest.raises(SnapshotError, match=name):
        decode(*resealed({**encoded[1], name: b"no safetensors"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"policy": "unheard_of"},
        {"settings": "{"},
        {"settings": "[1]"},
        {"settings": '{"nodes": 1000000000}'},
        {"floor": -1.0},
        {"floor": None},
        {"dims": [3, -2, 0]},
        {"dims": [3, 7, 0]},
        {"dims": [2, 2, 0]},
        {"actions": ["a", "b"]},
        {"actions": ["a", "b", "b"]},
        {"unknown": 1},
        {"kind": "coup"},
    ],
    ids=str,
)
def test_a_manifest_of_another_format_or_policy_is_refused(changes: dict[str, Any], encoded: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(SnapshotError):
        decode(*resealed(encoded[1], **changes))


@pytest.mark.parametrize("text", [b"", b"null", b"[" * 100_000, b'{"format": 1}', b"\xff\xfe", b"NaN"], ids=lambda text: repr(text[:8]))
def test_a_manifest_that_is_none_is_refused(text: bytes, encoded: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(SnapshotError, match=r"manifest\.json"):
        decode(hashlib.sha256(text).hexdigest(), {**encoded[1], "manifest.json": text})


def test_a_huge_manifest_is_refused(encoded: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(SnapshotError, match=r"manifest\.json"):
        decode(*resealed(encoded[1], label="x" * (5 << 20)))


def test_a_state_that_is_not_finite_is_not_published() -> None:
    damaged = draft()
    with pytest.raises(SnapshotError, match="not finite"):
        encode_snapshot(damaged._replace(state=jax.tree.map(lambda leaf: leaf * np.nan, damaged.state)))


def test_a_host_with_other_answers_does_not_serve_it(encoded: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    golden = safetensors.numpy.load(encoded[1]["golden.safetensors"])
    golden["numerators"] = golden["numerators"] + np.uint32(10_000)
    digest, files = resealed({**encoded[1], "golden.safetensors": safetensors.numpy.save(golden)})
    with pytest.raises(SnapshotError, match="other answers"):
        load_policy(written(tmp_path, digest, files)).check_golden(slots=1)
