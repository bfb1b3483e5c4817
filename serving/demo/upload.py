"""The second world of the demo: at which resolution a phone uploads a video. Pure; randomness comes in as a generator.

Context: the uplink (log, standardised), whether it is Wi-Fi, the video's length (log, standardised). Actions: six resolutions. Outcomes:
`reliability`, 1 where the upload succeeds, `failure`, 1 where it does not, and `quality` of what arrived, 0 where nothing did. A higher
resolution is worth more and fails more, the more so the weaker the uplink; so quality alone drives reliability down. After the problem of
Daulton, Singh, Avadhanula, Dimmery and Bakshy (2019), whose data are not public: the numbers are ours.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from serving.demo.tradeoff import tradeoff_extra
from serving.demo.world import Extra, Happening, Told

__all__ = ["ALPHA", "BASELINE", "RESOLUTIONS", "Upload", "UploadWorld"]

RESOLUTIONS = ("240p", "360p", "480p", "720p", "1080p", "1440p")
_QUALITY = np.array([0.25, 0.4, 0.55, 0.7, 0.85, 1.0])
#: As configs/tasks/video_upload.yaml declares them.
BASELINE, ALPHA = "480p", 0.05
_UNITS = 5_000
_TOLD = Told(
    title="constrained video uploads",
    asked="uploads asked for a resolution",
    began=f"{BASELINE} mostly, the others now and then, and an upload was worth {{reward:.2f}}",
)


class Upload(NamedTuple):
    """One upload: who sends, and the features f32[3]."""

    unit_id: str
    context: np.ndarray


@dataclasses.dataclass(frozen=True)
class UploadWorld:
    """Uploads of random members over random networks."""

    task: str = "video_upload"
    slate_size: int = 1
    columns: tuple[str, ...] = ("context", "slot_action", "outcomes")
    told: Told = _TOLD
    actions: tuple[str, ...] = RESOLUTIONS
    baseline: str = BASELINE
    alpha: float = ALPHA

    def visits(self, rng: np.random.Generator, count: int) -> list[Upload]:
        """`count` uploads."""
        uplink, wifi, length = rng.normal(size=count), rng.random(count) < 0.6, rng.normal(size=count)
        contexts = np.column_stack([uplink, wifi, length]).astype(np.float32)
        return [Upload(f"member-{unit}", context) for unit, context in zip(rng.integers(0, _UNITS, count), contexts, strict=True)]

    def happens(self, rng: np.random.Generator, visit: Upload, slate: Sequence[str]) -> Happening:
        """Every upload is seen; what fails sends no quality."""
        action = RESOLUTIONS.index(slate[0])
        arrived = rng.random() < self.success(visit.context[None])[0, action]
        rewards = (
            (("reliability", 0, 1.0), ("quality", 0, float(_QUALITY[action])))
            if arrived
            else (("reliability", 0, 0.0), ("failure", 0, 1.0))
        )
        return Happening(seen=(0,), rewards=rewards)

    def success(self, contexts: np.ndarray) -> np.ndarray:
        """P(upload succeeds) of each resolution, f64[n, 6], from contexts f32[n, 3]."""
        uplink, wifi, length = contexts.astype(np.float64).T
        rung, ease = np.arange(len(RESOLUTIONS)), uplink + 0.8 * (wifi - 0.6) - 0.6 * length
        log_odds = 4.2 - 0.5 * rung + (0.25 + 0.2 * rung) * ease[:, None]
        return np.asarray(1.0 / (1.0 + np.exp(-log_odds)), np.float64)

    def quality(self, contexts: np.ndarray) -> np.ndarray:
        """Expected quality of each resolution, f64[n, 6]."""
        return self.success(contexts) * _QUALITY

    def extra(self, rows: pa.Table, *, moved_s: Sequence[float], seed: int) -> Extra:
        """Quality and reliability over time, beside the baseline and plain Thompson sampling."""
        return tradeoff_extra(self, rows, moved_s=moved_s, seed=seed)
