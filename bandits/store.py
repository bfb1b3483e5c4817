"""The store of a task's snapshots, its pointers and its audit log: a directory.

    <root>/<task>/snapshots/<digest>/      files of a snapshot, manifest last
                  challengers/<digest>.json  one a challenger; closed by its verdict
                  champion.json              the pointer, moved by compare-and-swap
                  verdicts/<id>.json         what the gate said
                  looks/, followups/       what the gate declared and saw; what came after a promotion
                  traffic.json               the points of each experiment's arms, moved by compare-and-swap
                  kill_switch.json           there = the baseline decides
                  audit.jsonl                every move, appended

Readers need no lock: files appear whole, by rename. Writers of a pointer hold the task's lock, which the kernel frees with its holder.
"""

import contextlib
import fcntl
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bandits.allocation import TrafficState
from bandits.durable import append_line, make_folder, read_json, read_lines, read_record, sync_names, write_whole
from bandits.errors import ChampionMoved, StoreError, TrafficMoved, UnknownSnapshot, VerdictRefused
from bandits.loaded import LoadedPolicy, encode_snapshot, load_policy, read_snapshot
from bandits.pointer import Pointer, begun, promoted, rolled_back
from bandits.snapshots import MANIFEST_FILE, Draft, Manifest, Snapshot, decode_manifest
from protos import config

__all__ = ["Challenger", "Pointer", "Store"]


# A task's name that can be a folder on every system; as long as a name may be.
_FOLDER = re.compile(r"[\w-][\w.-]{0,127}")


class Challenger(NamedTuple):
    """A snapshot that waits for its verdict, or has one (`verdict` not empty)."""

    digest: str
    kind: str
    published_us: int
    verdict: str


class Store:
    """One task's part of the store."""

    def __init__(self, root: Path, task: str) -> None:
        if not _FOLDER.fullmatch(task):
            raise StoreError(f"task: {task!r} cannot name a folder of the store; use letters, digits, '-' and '_'")
        self._path = Path(root) / task

    # Snapshots.

    def publish(self, draft: Draft) -> str:
        """Writes a snapshot, files first and manifest last, and returns its digest. Publishing the same again changes nothing."""
        digest, files = encode_snapshot(draft)
        target = self.snapshot_dir(digest)
        if target.is_dir():
            return digest
        make_folder(target.parent)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
        for name, data in files.items():
            write_whole(staging / name, data)
        try:
            staging.rename(target)
        except OSError:
            shutil.rmtree(staging)
            if not target.is_dir():
                raise
        sync_names(target.parent)
        return digest

    def snapshot_dir(self, digest: str) -> Path:
        """Where the files of a snapshot lie."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise UnknownSnapshot(f"snapshot {digest!r}: a digest is 64 lower-case hex digits; `bandits snapshots` lists them")
        return self._path / "snapshots" / digest

    def load(self, digest: str) -> LoadedPolicy:
        """The verified policy of a snapshot. Raises SnapshotError, UnknownSnapshot."""
        return load_policy(self._known(digest))

    def read(self, digest: str) -> Snapshot:
        """The verified snapshot with its state. Raises SnapshotError, UnknownSnapshot."""
        return read_snapshot(self._known(digest))

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a snapshot. Raises SnapshotError, UnknownSnapshot."""
        return decode_manifest(digest, (self._known(digest) / MANIFEST_FILE).read_bytes())

    def digests(self) -> list[str]:
        """All snapshots, oldest first."""
        folders = [path for path in (self._path / "snapshots").glob("[0-9a-f]*") if (path / MANIFEST_FILE).is_file()]
        return [path.name for path in sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name))]

    def collect(self, *, keep: int) -> list[str]:
        """Removes all but the `keep` newest snapshots; never a champion, the previous one, the baseline, an arm's or an open challenger."""
        with self._locked():
            pointer = self.champion()
            kept = {item.digest for item in self.challengers()} | set(self.digests()[-keep:] if keep else [])
            kept |= {pointer.digest, pointer.previous, pointer.baseline, pointer.challenger} if pointer else set()
            kept |= self.traffic().digests
            removed = [digest for digest in self.digests() if digest not in kept]
            for digest in removed:
                shutil.rmtree(self.snapshot_dir(digest))
            return removed

    # The champion.

    def champion(self) -> Pointer | None:
        """The pointer, or None before the first champion."""
        return read_record(self._path / "champion.json", Pointer)

    def begin(self, digest: str, *, now_us: int, actor: str) -> Pointer:
        """Makes a snapshot the task's first champion and its baseline. Raises ChampionMoved if the task has one."""
        with self._locked():
            if (standing := self.champion()) is not None:
                raise ChampionMoved(f"champion: the task has one already ({standing.digest}); promote a challenger instead")
            self._known(digest)
            return self._move(begun(digest, now_us=now_us), action="begin", actor=actor, reason="first champion")

    def promote(
        self, digest: str, *, verdict: Mapping[str, Any], expected: Pointer | None, now_us: int, actor: str, share: float = 1.0
    ) -> Pointer:
        """Gives `digest` a share of the traffic, in (0, 1), or with 1 the champion's place, quoting the verdict that allows it.

        `verdict` has the keys `decision` ("promote"), `challenger` (= digest) and `champion` (= expected.digest). Raises
        VerdictRefused for another one or a share that does not grow, ChampionMoved if the pointer is no longer `expected`.
        """
        if verdict.get("overridden"):
            raise VerdictRefused(f"verdict: reached with {verdict['overridden']} overridden; such a verdict never promotes")
        if verdict.get("decision") != "promote" or verdict.get("challenger") != digest:
            raise VerdictRefused(
                f"verdict: decision {verdict.get('decision')!r} on {verdict.get('challenger')!r} does not promote {digest}"
            )
        verdict_id = self.put_verdict(verdict)
        with self._locked():
            standing = self.champion()
            if standing is None or standing != expected:
                raise ChampionMoved("champion: moved since it was read; judge the challenger against the new one")
            if verdict.get("champion") != standing.digest:
                raise VerdictRefused(f"verdict: judged against {verdict.get('champion')!r}, but {standing.digest} serves; judge again")
            if (
                verdict.get("generation", standing.generation) != standing.generation
                or verdict.get("decided_us", now_us) < standing.moved_us
            ):
                raise VerdictRefused(f"verdict: reached before the move {standing.generation} that stands; judge the challenger again")
            self._known(digest)
            moved = promoted(standing, digest, verdict_id=verdict_id, share=share, now_us=now_us)
            return self._move(moved, action="promote" if share == 1 else "stage", actor=actor, reason="verdict", quoted=verdict_id)

    def rollback(self, *, reason: str, now_us: int, actor: str, evidence: str = "", expected: Pointer | None = None) -> Pointer:
        """Takes a staged challenger's share away, or restores the previous champion; the audit log quotes the verdict that is undone.

        `evidence`: id of a kept verdict that says why, quoted too. `expected`: the pointer that was read, None = whatever stands. Raises
        StoreError if there is nothing to go back to, ChampionMoved if the pointer is no longer `expected`.
        """
        with self._locked():
            standing = self.champion()
            if expected is not None and standing != expected:
                raise ChampionMoved("champion: moved since it was read; look again before you roll back")
            if standing is None:
                raise StoreError("champion: there is no previous one to roll back to")
            moved = rolled_back(standing, now_us=now_us)
            self._known(moved.digest)
            return self._move(moved, action="rollback", actor=actor, reason=reason, quoted=standing.quoted, evidence=evidence)

    def traffic(self) -> TrafficState:
        """The experiments as they stand; none before the first move. Raises StoreError for a file that is no such state."""
        data = read_json(self._path / "traffic.json")
        try:
            return TrafficState() if data is None else TrafficState.of(data)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise StoreError(f"{self._path / 'traffic.json'}: is no traffic ({error!r}); restore it from the audit log") from error

    def move_traffic(
        self, change: Callable[[TrafficState], TrafficState], *, expected: int | None, now_us: int, actor: str, reason: str
    ) -> TrafficState:
        """Puts what `change` makes of the standing experiments in their place, if that is another, and writes it into the audit log.

        `expected`: generation that was read, None = whatever stands. Raises TrafficMoved for another one, UnknownSnapshot for an arm
        whose snapshot is not here, and what `change` raises.
        """
        with self._locked():
            standing = self.traffic()
            if expected is not None and standing.generation != expected:
                raise TrafficMoved(f"generation: {expected} was read, {standing.generation} stands; read the traffic again")
            wanted = change(standing)
            if wanted.experiments == standing.experiments:
                return standing
            for digest in wanted.digests:
                self._known(digest)
            moved = wanted._replace(generation=standing.generation + 1, moved_us=now_us)
            write_whole(self._path / "traffic.json", json.dumps(moved.as_dict(), indent=1).encode())
            self._audit({"action": "traffic", "actor": actor, "reason": reason, "time_us": now_us, **moved.as_dict()})
            return moved

    @property
    def kill_switch(self) -> bool:
        """true = the baseline decides."""
        return (self._path / "kill_switch.json").exists()

    def set_kill_switch(self, on: bool, *, reason: str, now_us: int, actor: str) -> None:
        """Turns the kill switch, with a reason for the audit log."""
        with self._locked():
            path = self._path / "kill_switch.json"
            if on:
                write_whole(path, json.dumps({"reason": reason, "since_us": now_us}).encode())
            else:
                path.unlink(missing_ok=True)
            self._audit({"action": "kill_switch_on" if on else "kill_switch_off", "actor": actor, "reason": reason, "time_us": now_us})

    # Challengers and verdicts.

    def challenge(self, digest: str, *, now_us: int) -> Challenger:
        """Enters a published snapshot as challenger. Raises StoreError while another one waits for its verdict."""
        with self._locked():
            if (waiting := self.challengers()) and waiting[0].digest != digest:
                raise StoreError(f"challenger: {waiting[0].digest} still waits for its verdict; one at a time")
            manifest = self.manifest(digest)
            challenger = Challenger(digest=digest, kind=manifest.kind, published_us=now_us, verdict="")
            self._put_challenger(challenger)
            self._audit({"action": "challenge", "digest": digest, "kind": manifest.kind, "label": manifest.label, "time_us": now_us})
            return challenger

    def challengers(self, *, closed: bool = False) -> list[Challenger]:
        """Challengers that wait for their verdict (or those that have one), oldest first."""
        read = (read_record(path, Challenger) for path in (self._path / "challengers").glob("*.json"))
        found = [item for item in read if item is not None and bool(item.verdict) == closed]
        return sorted(found, key=lambda item: (item.published_us, item.digest))

    def close_challenger(self, digest: str, verdict_id: str) -> None:
        """Ends a challenger's wait with its verdict."""
        with self._locked():
            challenger = read_record(self._path / "challengers" / f"{digest}.json", Challenger)
            if challenger is None:
                raise UnknownSnapshot(f"challenger {digest}: not in the store; `bandits snapshots` lists them")
            self._put_challenger(challenger._replace(verdict=verdict_id))
            self._audit({"action": "close", "digest": digest, "verdict": verdict_id})

    def put_verdict(self, verdict: Mapping[str, Any]) -> str:
        """Keeps a verdict and returns its id, the digest of its content."""
        verdict_id = config.digest(verdict)
        path = self._path / "verdicts" / f"{verdict_id}.json"
        if not path.exists():
            write_whole(path, json.dumps(verdict, sort_keys=True, indent=1).encode())
        return verdict_id

    def verdict(self, verdict_id: str) -> dict[str, Any]:
        """A kept verdict. Raises UnknownSnapshot."""
        data = read_json(self._path / "verdicts" / f"{verdict_id}.json")
        if data is None:
            raise UnknownSnapshot(f"verdict {verdict_id!r}: not in the store; `ope verdicts` lists them")
        return data

    def put_note(self, kind: str, name: str, note: Mapping[str, Any]) -> None:
        """Keeps a record of the gate's under a kind (a folder) and a name; the latest stands."""
        write_whole(self._path / kind / f"{name}.json", json.dumps(note, sort_keys=True, indent=1).encode())

    def notes(self, kind: str) -> dict[str, dict[str, Any]]:
        """The records of a kind by name."""
        read = {path.stem: read_json(path) for path in sorted((self._path / kind).glob("*.json"))}
        return {name: note for name, note in read.items() if note is not None}

    def remark(self, action: str, **entry: Any) -> None:
        """Appends a line to the audit log that moves nothing."""
        with self._locked():
            self._audit({"action": action, **entry})

    def verdict_ids(self) -> list[str]:
        """Ids of the verdicts, oldest first."""
        paths = (self._path / "verdicts").glob("*.json")
        return [path.stem for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))]

    def audit(self) -> list[dict[str, Any]]:
        """Every move of this task, oldest first. A line that a power cut tore stands as {"action": "unreadable", "text": line}."""
        return [_entry(line) for line in read_lines(self._path / "audit.jsonl")]

    def _known(self, digest: str) -> Path:
        path = self.snapshot_dir(digest)
        if not (path / MANIFEST_FILE).is_file():
            raise UnknownSnapshot(f"snapshot {digest}: not in the store; `bandits snapshots` lists them")
        return path

    def _put_challenger(self, challenger: Challenger) -> None:
        write_whole(self._path / "challengers" / f"{challenger.digest}.json", json.dumps(challenger._asdict()).encode())

    def _move(self, pointer: Pointer, *, action: str, actor: str, reason: str, **quotes: str) -> Pointer:
        write_whole(self._path / "champion.json", json.dumps(pointer._asdict(), indent=1).encode())
        self._audit({"action": action, "actor": actor, "reason": reason, "time_us": pointer.moved_us, **quotes, **pointer._asdict()})
        return pointer

    def _audit(self, entry: Mapping[str, Any]) -> None:
        append_line(self._path / "audit.jsonl", json.dumps(entry, sort_keys=True))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        make_folder(self._path)
        with (self._path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _entry(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        return {"action": "unreadable", "text": line}
