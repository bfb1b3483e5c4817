"""Makes a version of the unit features from the landed signals. Touches the tables."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from attribution.deletions import read_deletions
from attribution.errors import TableError
from attribution.positions import EVENTS_EXPIRED
from attribution.status import watermark_us
from attribution.tables import EVENTS_DIR, open_table, text
from attribution.unit_feature_store import erase_features, features_folder, publish
from attribution.unit_features import feature_columns, unit_features, usable_signals
from attribution.watermarks import FINAL_US
from protos.unit_features import UnitFeaturesManifest, latest_version, read_manifest

__all__ = ["FeatureRequest", "build_unit_features"]

_COLUMNS = (
    "kind",
    "fault",
    "tenant",
    "unit_id",
    "name",
    "value",
    "event_id",
    "event_time_us",
    "append_time_us",
    "topic",
    "partition",
    "offset",
)


@dataclasses.dataclass(frozen=True)
class FeatureRequest:
    """What is asked for: signals by name (none = all that have landed), windows in seconds, and the last value of nothing.

    `at_us`: the windows end here, microseconds since the epoch; None = at the watermark.
    """

    tenant: str
    signals: Sequence[str]
    windows_s: Sequence[float]
    last_default: float = 0.0
    at_us: int | None = None


def build_unit_features(out: Path, request: FeatureRequest, *, now_us: int, keep: int) -> UnitFeaturesManifest:
    """Publishes what the units of a tenant did, in the landed signals below `out`; the version that is the newest then.

    Raises TableError if there are no tables, no signal, no watermark and no time was given, or a window holds what has expired.
    """
    end_us = watermark_us(out) if request.at_us is None else request.at_us
    landed = open_table(out / EVENTS_DIR, schema=None)
    events = landed.read(columns=_COLUMNS, where=text("kind") == "signal")
    signals = usable_signals(events, tenant=request.tenant)
    names = list(request.signals) or sorted(signals["name"].unique())
    if not names:
        raise TableError(f"{out}: holds no signal of tenant {request.tenant!r}; send some, or name them (--signal)")
    if end_us <= 0:
        raise TableError(f"{out}: has no watermark yet; wait until every source has spoken, or give --at-us")
    if end_us == FINAL_US:
        # The input has ended: up to now is up to its newest signal.
        end_us = max(signals["event_time_us"].to_list(), default=0) + 1
    _refuse_expired(out, request, end_us=end_us, expired_us=landed.position(EVENTS_EXPIRED) or 0)
    columns = feature_columns(names, windows_s=request.windows_s, last_default=request.last_default)
    rows = unit_features(signals, columns, at_us=end_us)
    folder = features_folder(out, request.tenant)
    made = publish(folder, rows, tenant=request.tenant, at_us=end_us, columns=columns, now_us=now_us, keep=keep)
    # A deletion that came while the signals were read has gone through the versions before this one was among them.
    erase_features(out, read_deletions(out))
    return read_manifest(folder / (latest_version(folder) or made.version))


def _refuse_expired(out: Path, request: FeatureRequest, *, end_us: int, expired_us: int) -> None:
    """A window that begins before the oldest event that is kept would count too little, and nothing would show it."""
    longest = max(request.windows_s)
    begins_us = end_us - round(longest * 1e6)
    if begins_us < expired_us:
        raise TableError(
            f"{out}: a window of {longest / 86_400:g} days begins at {begins_us} us, and events before {expired_us} us have expired; "
            "ask for shorter windows, or keep events longer (`attribution expire --events-days`)"
        )
