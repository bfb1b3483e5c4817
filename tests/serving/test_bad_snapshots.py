"""Every bad snapshot of the plan, offered to a server that serves: refused with a reason, and what served serves on, within its memory."""

import hashlib
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandits.config import parse_task
from bandits.errors import SnapshotError
from bandits.first import ensure_champion
from bandits.loaded import LoadedPolicy, load_policy
from bandits.store import Pointer, Store
from protos.task import load_task
from serving.snapshots import SnapshotHolder
from serving.tasks import parse_rules
from tests.bandits.test_snapshot_files import resealed
from tests.serving.kit import publish

CUTS, FLIPS, MOST_MIB = 64, 256, 64
# The files of a snapshot by name, and its digest.
Files = dict[str, bytes]
WEIGHTS = "params.safetensors"


class Offered:
    """A store whose champion is whatever is offered, under a name of its own."""

    kill_switch = False

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder, self.sound = store, folder, store.champion()
        self._bad: dict[str, Path] = {}
        self.number = 0

    def offer(self, digest: str, files: Files) -> Path:
        self.number += 1
        folder = self._folder / str(self.number) / digest
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        self._bad[f"{self.number:064d}"] = folder
        return folder

    def champion(self) -> Pointer:
        assert self.sound is not None
        return self.sound._replace(digest=max(self._bad)) if self._bad else self.sound

    def load(self, digest: str) -> LoadedPolicy:
        return load_policy(self._bad[digest]) if digest in self._bad else self._store.load(digest)


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> tuple[Offered, SnapshotHolder, str, Files]:
    """What is offered, who serves, and a sound snapshot."""
    folder, file = tmp_path_factory.mktemp("bad-snapshots"), load_task(tasks / "shop.yaml")
    shop = parse_task(file)
    store = Store(folder / "store", "shop")
    ensure_champion(store, shop, now_us=1)
    digest = publish(store, shop, seed=1)
    files = {path.name: path.read_bytes() for path in store.snapshot_dir(digest).iterdir()}
    source = Offered(store, folder)
    holder = SnapshotHolder(source, parse_rules(file))
    holder.start()
    return source, holder, digest, files


def refused(
    offered: tuple[Offered, SnapshotHolder, str, Files], digest: str, files: Files, spoil: Callable[[Path], None] | None = None
) -> str:
    """Offers it; the reason of the refusal, which left everything as it was."""
    source, holder, _, _ = offered
    before, failures = holder.served, holder.failures
    folder = source.offer(digest, files)
    if spoil is not None:
        spoil(folder)
    with pytest.raises(SnapshotError) as caught:
        load_policy(folder)
    assert not holder.refresh() and holder.failures == failures + 1
    assert holder.served.deciding is before.deciding and holder.served.champion is before.champion
    return str(caught.value)


def places(size: int, count: int) -> Iterator[int]:
    yield from np.unique(np.linspace(0, size - 1, count).astype(int)).tolist()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("name", ["manifest.json", "state.safetensors", WEIGHTS, "golden.safetensors"])
def test_cut_and_flipped_files_are_refused_everywhere(name: str, offered: tuple[Offered, SnapshotHolder, str, Files]) -> None:
    _, _, digest, files = offered
    held, whole = peak_mib(), files[name]
    for size in places(len(whole), CUTS // 4):
        assert digest[:12] in refused(offered, digest, {**files, name: whole[:size]})
    for bit in places(8 * len(whole), FLIPS // 4):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        assert digest[:12] in refused(offered, digest, {**files, name: bytes(flipped)})
    assert peak_mib() < held + MOST_MIB


def without(name: str) -> Callable[[Files], Files]:
    return lambda files: {key: data for key, data in files.items() if key != name}


# Each with an honest manifest again, as whoever may write the store could make it.
SEALED: dict[str, Callable[[Files], Files]] = {
    "a header that claims 10 GiB": lambda files: {**files, WEIGHTS: (10 << 30).to_bytes(8, "little") + files[WEIGHTS][8:]},
    "weights that are no file of theirs": lambda files: {**files, WEIGHTS: b"x" * 100},
    "weights that are NaN": lambda files: {**files, WEIGHTS: files[WEIGHTS][:-8] + np.array(np.nan).tobytes()},
    "no weights": without(WEIGHTS),
    "no golden requests": without("golden.safetensors"),
}


@pytest.mark.parametrize("name", SEALED)
def test_what_is_sealed_honestly_and_still_no_snapshot_is_refused(name: str, offered: tuple[Offered, SnapshotHolder, str, Files]) -> None:
    held = peak_mib()
    digest, files = resealed(SEALED[name](offered[3]))
    assert refused(offered, digest, files) and peak_mib() < held + MOST_MIB


MANIFESTS: dict[str, dict[str, Any]] = {
    "of an old format": {"format": 0},
    "of a format to come": {"format": 99},
    "of a path that leads elsewhere": {"files": {"../../etc/passwd": "0" * 64}},
    "of a whole path": {"files": {"/etc/passwd": "0" * 64}},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_is_none_of_ours_is_refused(name: str, offered: tuple[Offered, SnapshotHolder, str, Files]) -> None:
    files = offered[3]
    text = json.dumps({**json.loads(files["manifest.json"]), **MANIFESTS[name]}).encode()
    assert refused(offered, hashlib.sha256(text).hexdigest(), {**files, "manifest.json": text})


def test_links_and_renamed_and_further_files_are_refused(offered: tuple[Offered, SnapshotHolder, str, Files]) -> None:
    _, _, digest, files = offered

    def link(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder.parent / "elsewhere")
        (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")

    assert "plain file" in refused(offered, digest, files, link)
    assert refused(offered, digest, files, lambda folder: (folder / WEIGHTS).rename(folder / "weights.safetensors") and None)
    assert refused(offered, "f" * 64, files)
    assert "more.safetensors" in refused(offered, digest, {**files, "more.safetensors": files[WEIGHTS]})


def test_the_checker_takes_a_sound_snapshot_for_one(offered: tuple[Offered, SnapshotHolder, str, Files]) -> None:
    """The known-good case, last, since it unseats the first champion."""
    source, holder, digest, files = offered
    source.offer(digest, files)
    assert holder.refresh() and holder.served.deciding.digest == digest
    with pytest.raises(pytest.fail.Exception):
        refused(offered, digest, files)
