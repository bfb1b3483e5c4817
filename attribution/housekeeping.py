"""What is done to the tables beside the join: deletion of units, expiry by age, compaction. Touches the tables.

Each of these rewrites files; the joiner may run meanwhile (an append that was forestalled is tried again). Compaction and vacuum have one
owner by name, written down beside the tables: two of them would throw away each other's files.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import deltalake
import polars as pl

from attribution.deletions import read_deletions, request_deletion
from attribution.erasure import ERASED, EXPIRED, PERSONAL, decisions_with, erased_rows, events_at
from attribution.errors import TableError
from attribution.positions import EVENTS_EXPIRED
from attribution.tables import EVENTS_DIR, OBSERVATIONS_DIR, open_table
from attribution.unit_feature_store import erase_features

__all__ = ["Expiry", "compact", "delete_unit", "erase_tables", "expire"]

_STANDING = f"(fault IS NULL OR fault NOT IN ('{ERASED}', '{EXPIRED}'))"
_OWNER = ".compaction-owner"
# A file that no commit names is left behind by a crash, or is under way: no append takes a day.
_LEFT_BEHIND_HOURS = 24


@dataclasses.dataclass(frozen=True)
class Expiry:
    """What goes: events that are deleted, decisions whose event is emptied and counted as expired, rows of observations."""

    events: int
    decisions: int
    observations: int


def delete_unit(out: Path, *, tenant: str, unit_id: str, until_us: int, now_us: int) -> Mapping[str, int]:
    """Writes the deletion down for every later path, then takes the unit out of both tables and their history. Raises TableError."""
    request_deletion(out, tenant=tenant, unit_id=unit_id, until_us=until_us, now_us=now_us)
    return erase_tables(out, read_deletions(out))


def erase_tables(out: Path, deletions: pl.DataFrame) -> Mapping[str, int]:
    """Takes what deletions cover out of the tables: events are emptied, observations deleted, old files removed; and out of every version
    of the unit features."""
    places = ["topic", "partition", "offset"]
    landed = open_table(out / EVENTS_DIR, schema=None).read(columns=[*places, "tenant", "unit_id", "event_time_us"])
    lost = landed.filter(erased_rows(landed, deletions))
    joined = open_table(out / OBSERVATIONS_DIR, schema=None).read(columns=["decision_id", "tenant", "unit_id", "decision_time_us"])
    rows = joined.filter(erased_rows(joined, deletions, time="decision_time_us"))
    events, observations = _handle(out / EVENTS_DIR), _handle(out / OBSERVATIONS_DIR)
    if lost.height:
        _empty(events, f"({events_at(lost)})", fault=ERASED)
    if rows.height:
        observations.delete(decisions_with(rows["decision_id"].unique()))
    for table in (events, observations):
        _vacuum(table)
    return {"events": lost.height, "observations": rows.height, "unit_features": erase_features(out, deletions)}


def expire(out: Path, *, events_before_us: int, observations_before_us: int, held_since_us: int, apply: bool) -> Expiry:
    """Lets go of what is older, or (`apply` false) says what would go. Event times, microseconds since the epoch.

    A decision whose row goes is emptied too, or it would count as pending. `held_since_us`: the join still needs what is later. Raises
    TableError if something asked for is.
    """
    if max(events_before_us, observations_before_us) > held_since_us:
        raise TableError(
            f"{out}: the join still needs events since {held_since_us} us; ask for longer retention, or wait for the watermark"
        )
    decided_before_us = max(events_before_us, observations_before_us)
    old = {
        "events": f"kind <> 'decision' AND event_time_us < {events_before_us}",
        "decisions": f"kind = 'decision' AND event_time_us < {decided_before_us} AND {_STANDING}",
        "observations": f"decision_time_us < {observations_before_us}",
    }
    found = Expiry(
        events=_count(out / EVENTS_DIR, pl.sql_expr(old["events"])),
        decisions=_count(out / EVENTS_DIR, pl.sql_expr(old["decisions"])),
        observations=_count(out / OBSERVATIONS_DIR, pl.sql_expr(old["observations"])),
    )
    if apply:
        events, observations = _handle(out / EVENTS_DIR), _handle(out / OBSERVATIONS_DIR)
        _delete_events(events, old["events"], before_us=events_before_us)
        _empty(events, old["decisions"], fault=EXPIRED)
        observations.delete(old["observations"])
        for table in (events, observations):
            _vacuum(table)
    return found


def compact(out: Path, *, owner: str, keep_s: float) -> Mapping[str, int]:
    """Merges small files and removes those that no reader of the last `keep_s` needs; the number of files that went.

    Raises TableError if another owner does this here.
    """
    mark = out / _OWNER
    # Two that come at once: one makes it, the other finds it.
    with contextlib.suppress(FileExistsError), mark.open("x") as fresh:
        fresh.write(owner)
    if (known := mark.read_text()) != owner:
        raise TableError(f"--owner {owner}: {known!r} compacts these tables; stop it and delete {mark}, or leave it to it")
    gone = {}
    for name in (EVENTS_DIR, OBSERVATIONS_DIR):
        table = _handle(out / name)
        table.optimize.compact()
        gone[name] = _vacuum(table, keep_hours=round(keep_s / 3600))
    return gone


def _handle(path: Path) -> deltalake.DeltaTable:
    open_table(path, schema=None)
    return deltalake.DeltaTable(path)


def _empty(events: deltalake.DeltaTable, where: str, *, fault: str) -> int:
    """Empties events in place: one commit, so an account that is read meanwhile finds them before or after."""
    blank = dict.fromkeys(PERSONAL, "NULL")
    return int(events.update(updates={**blank, "fault": f"'{fault}'"}, predicate=where)["num_updated_rows"])


def _delete_events(events: deltalake.DeltaTable, where: str, *, before_us: int) -> None:
    """Deletes events, and says in the same commit from when on they are whole: who counts over a window asks."""
    mark = max(before_us, events.transaction_version(EVENTS_EXPIRED) or 0)
    moved = deltalake.CommitProperties(app_transactions=[deltalake.Transaction(EVENTS_EXPIRED, mark)])
    events.delete(where, commit_properties=moved)


def _vacuum(table: deltalake.DeltaTable, *, keep_hours: int = 0) -> int:
    """Removes files that the table has let go of for so long, and those that a crash left behind before any commit named them.

    Zero hours: a unit that was deleted must not lie on in files of the table's history.
    """
    gone = table.vacuum(retention_hours=keep_hours, enforce_retention_duration=False, dry_run=False)
    hours = max(keep_hours, _LEFT_BEHIND_HOURS)
    return len(gone) + len(table.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=False, full=True))


def _count(path: Path, where: pl.Expr) -> int:
    frame = open_table(path, schema=None).read(
        columns=["event_time_us", "kind", "fault"] if path.name == EVENTS_DIR else ["decision_time_us"]
    )
    return frame.filter(where).height
