"""The world of the demo: scikit-learn's handwritten digits. Pure; randomness comes in as a generator.

Context: the 64 pixels of a picture. Actions: the ten digits. A slate offers three; a slot is seen with a probability that falls from the
top; the reward is 1 when the right digit was offered in a slot that was seen. Uniform slates earn 0.1 (1 + 0.7 + 0.4) = 0.21.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits

from serving.demo.world import Extra, Happening, Told

__all__ = ["SEEN_PROBABILITY", "DigitsWorld", "Reaction", "Visit", "react"]

SEEN_PROBABILITY = (1.0, 0.7, 0.4)
_UNITS = 5_000
_TOLD = Told(
    title="handwritten digits",
    asked="pages asked for three digits to offer",
    began="every digit was as likely as the next, and a page earned {reward:.2f} right answers",
)


class Visit(NamedTuple):
    """One page view: who comes, the picture's pixels f32[64], and the digit that it shows."""

    unit_id: str
    context: np.ndarray
    digit: str


class Reaction(NamedTuple):
    """What a visitor does with a slate: the slots that are seen, and the one that is right among them (None = none)."""

    seen: tuple[int, ...]
    right: int | None


@dataclasses.dataclass(frozen=True)
class DigitsWorld:
    """1,797 pictures; visits draw from them with replacement."""

    pixels: np.ndarray
    digits: tuple[str, ...]
    task: str = "digits"
    slate_size: int = len(SEEN_PROBABILITY)
    columns: tuple[str, ...] = ()
    told: Told = _TOLD

    @classmethod
    def load(cls) -> "DigitsWorld":
        """The pictures as scikit-learn ships them."""
        pixels, digits = load_digits(return_X_y=True)
        return cls(pixels=pixels.astype(np.float32), digits=tuple(str(digit) for digit in digits))

    def visits(self, rng: np.random.Generator, count: int) -> list[Visit]:
        """`count` visits of random units with random pictures."""
        pictures, units = rng.integers(0, len(self.digits), count), rng.integers(0, _UNITS, count)
        return [Visit(f"visitor-{unit}", self.pixels[picture], self.digits[picture]) for picture, unit in zip(pictures, units, strict=True)]

    def happens(self, rng: np.random.Generator, visit: Visit, slate: Sequence[str]) -> Happening:
        """The reaction as impressions and a reward event."""
        reaction = react(rng, visit, slate)
        return Happening(seen=reaction.seen, rewards=() if reaction.right is None else (("right", reaction.right, 1.0),))

    def extra(self, rows: pa.Table, *, moved_s: Sequence[float], seed: int) -> Extra:
        """Nothing: the digits are the plain demo."""
        return Extra()


def react(rng: np.random.Generator, visit: Visit, slate: Sequence[str]) -> Reaction:
    """How the visitor reacts to a slate of action ids, top first."""
    looks = rng.random(len(slate)) < SEEN_PROBABILITY[: len(slate)]
    seen = tuple(int(slot) for slot in np.flatnonzero(looks))
    return Reaction(seen=seen, right=next((slot for slot in seen if slate[slot] == visit.digit), None))
