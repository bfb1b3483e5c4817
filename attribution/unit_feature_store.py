"""Versions of the unit features on disk (the layout is `protos.unit_features`'s): made whole or not at all, read-only, a few kept.
Touches the disk."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from attribution.errors import TableError
from attribution.unit_features import without_units
from protos.unit_features import (
    FEATURES_FILE,
    LATEST,
    MANIFEST_FILE,
    UNIT_FEATURES,
    FeatureColumn,
    UnitFeaturesManifest,
    latest_version,
    read_manifest,
)

__all__ = ["erase_features", "features_folder", "publish", "versions"]

_UNFINISHED = ".new-"
_DIGEST_CHARACTERS = 16


def features_folder(out: Path, tenant: str) -> Path:
    """Folder of a tenant's versions, beside the tables; a name that is no file name is quoted."""
    return out / UNIT_FEATURES / urllib.parse.quote(tenant, safe="").replace(".", "%2E")


def versions(folder: Path) -> list[UnitFeaturesManifest]:
    """The versions there are, oldest first."""
    found = [read_manifest(path) for path in folder.glob("*") if path.is_dir() and not path.name.startswith(_UNFINISHED)]
    return sorted(found, key=lambda manifest: (manifest.published_us, manifest.version))


def publish(
    folder: Path, features: pl.DataFrame, *, tenant: str, at_us: int, columns: Sequence[FeatureColumn], now_us: int, keep: int
) -> UnitFeaturesManifest:
    """Makes a version and points `latest` at it; of all, the `keep` newest stay. The same rows at the same time are the same version.

    Raises TableError if the disk refuses.
    """
    try:
        manifest = _write(folder, features, tenant=tenant, at_us=at_us, columns=columns, now_us=now_us)
        _point(folder, manifest.version)
        standing = [old for old in versions(folder) if old.version != manifest.version]
        for old in standing[: max(len(standing) + 1 - keep, 0)]:
            _remove(folder, old.version)
    except OSError as error:
        raise TableError(f"{folder}: unit features could not be written ({error}); mend the disk and do it again") from error
    return manifest


def erase_features(out: Path, deletions: pl.DataFrame) -> int:
    """Takes the units of these deletions out of every version of every tenant; how many rows went.

    A version that held one is replaced by another, under a name of its own; one that a crash left half made goes too.
    """
    return sum(_erase_folder(folder, deletions) for folder in sorted((out / UNIT_FEATURES).glob("*")))


def _erase_folder(folder: Path, deletions: pl.DataFrame) -> int:
    gone = 0
    for old in versions(folder):
        # Whoever was quicker, another eraser or a newer version, has done it.
        with contextlib.suppress(FileNotFoundError):
            gone += _erase_version(folder, old, deletions)
    for unfinished in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    return gone


def _erase_version(folder: Path, old: UnitFeaturesManifest, deletions: pl.DataFrame) -> int:
    rows = pl.read_parquet(folder / old.version / FEATURES_FILE)
    kept = without_units(rows, deletions, tenant=old.tenant)
    if kept.height == rows.height:
        return 0
    mended = _write(folder, kept, tenant=old.tenant, at_us=old.at_us, columns=old.columns, now_us=old.published_us)
    if latest_version(folder) == old.version:
        _point(folder, mended.version)
    _remove(folder, old.version)
    return rows.height - kept.height


def _remove(folder: Path, version: str) -> None:
    """Takes a version away in one step: a half of one is nobody's to find."""
    gone = folder / f"{_UNFINISHED}gone-{version}"
    (folder / version).rename(gone)
    shutil.rmtree(gone)


def _write(
    folder: Path, features: pl.DataFrame, *, tenant: str, at_us: int, columns: Sequence[FeatureColumn], now_us: int
) -> UnitFeaturesManifest:
    data = _parquet(features)
    digest = hashlib.sha256(data).hexdigest()
    version = f"{at_us:020d}-{digest[:_DIGEST_CHARACTERS]}"
    manifest = UnitFeaturesManifest(version, tenant, at_us, digest, features.height, now_us, tuple(columns))
    if (folder / version).exists():
        return read_manifest(folder / version)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    for name, content in ((FEATURES_FILE, data), (MANIFEST_FILE, manifest.to_json().encode())):
        _write_whole(unfinished / name, content)
    unfinished.chmod(0o755)
    unfinished.rename(folder / version)
    return manifest


def _parquet(features: pl.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(features.to_arrow(compat_level=pl.CompatLevel.oldest()), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _write_whole(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)


def _point(folder: Path, version: str) -> None:
    new = folder / f"{_UNFINISHED}{LATEST}"
    new.unlink(missing_ok=True)
    _write_whole(new, f"{version}\n".encode())
    new.replace(folder / LATEST)
