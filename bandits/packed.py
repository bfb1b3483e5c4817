"""Requests as rows of 32-bit words: one array goes into a compiled program, and one comes out.

Between two RPCs a call costs by its arguments (8 us, and 1.5 us each), so a row holds everything of a request, and of its answer:

    request   context f32[d], features f32[K, f], scores f64[K], actions u32[K], slots u32, draw key u32[2]
    answer    slates i32[L], numerators u32[L], mean f64[L], scale f64[L], sound u32[2]

An action's word is its index in the action table, with the top bit set where the candidate is eligible. A server joins the very bytes
that a client sent into a row; `pack` does the same for columns. Little-endian, as every platform is that JAX runs on. In numpy a request
is one record of a structured dtype.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.requests import Requests

__all__ = ["ELIGIBLE", "Row", "RowLayout", "answer_columns", "answer_words", "pack", "unpack"]

ELIGIBLE = 1 << 31
# The same bit of a signed word.
_ELIGIBLE = np.int32(-ELIGIBLE)
# An f32 is zero or a normal number; the smallest normal one has these bits, and infinity those.
_SMALLEST, _INFINITE = 0x00800000, 0x7F800000


class RowLayout(NamedTuple):
    """d context features; K candidates, padded; f features a candidate."""

    context: int
    width: int
    features: int

    @property
    def numbers(self) -> int:
        """Words of context and features, with which a row begins."""
        return self.context + self.width * self.features

    @property
    def words(self) -> int:
        """Words of a row."""
        return self.numbers + 3 * self.width + 3


class Row(NamedTuple):
    """One request of a row, as JAX arrays: the columns of `Requests`, and `sound`: context and features are normal numbers or zero."""

    context: jax.Array
    actions: jax.Array
    features: jax.Array
    scores: jax.Array
    eligible: jax.Array
    slots: jax.Array
    draw_key: jax.Array
    sound: jax.Array


def pack(requests: Requests, layout: RowLayout) -> np.ndarray:
    """The rows u32[n, words] of n requests of at most K candidates; what is missing is not eligible."""
    n, have = requests.actions.shape
    rows = np.zeros((n, layout.words), np.uint32)
    fields = rows.view(_request_dtype(layout))[:, 0]
    fields["context"] = requests.context
    if layout.features:
        fields["features"][:, :have] = requests.features
    fields["scores"][:, :have] = requests.scores
    fields["actions"][:, :have] = np.where(requests.eligible, requests.actions | _ELIGIBLE, requests.actions)
    fields["slots"] = requests.slots
    fields["draw_key"] = requests.draw_key
    return rows


@functools.lru_cache(maxsize=256)
def _request_dtype(layout: RowLayout) -> np.dtype[np.void]:
    d, width, f = layout
    features = [("features", "<f4", (width, f))] if f else []
    named = [("context", "<f4", (d,)), *features, ("scores", "<f8", (width,)), ("actions", "<i4", (width,))]
    return np.dtype([*named, ("slots", "<i4"), ("draw_key", "<u4", (2,))])


def unpack(row: jax.Array, layout: RowLayout) -> Row:
    """What `pack` put into one row, u32[words]."""
    d, width, f = layout
    numbers, behind = row[: layout.numbers], layout.numbers + 2 * width
    words = row[behind:-3]
    floats = jax.lax.bitcast_convert_type(numbers, jnp.float32)
    magnitude = numbers & np.uint32(0x7FFFFFFF)
    normal = ((magnitude >= np.uint32(_SMALLEST)) & (magnitude < np.uint32(_INFINITE))) | (magnitude == 0)
    return Row(
        context=floats[:d],
        actions=(words & np.uint32(ELIGIBLE - 1)).astype(jnp.int32),
        features=floats[d:].reshape(width, f),
        scores=jax.lax.bitcast_convert_type(row[layout.numbers : behind].reshape(width, 2), jnp.float64),
        eligible=words >= np.uint32(ELIGIBLE),
        slots=row[-3].astype(jnp.int32),
        draw_key=row[-2:],
        sound=jnp.all(normal),
    )


def answer_words(slates: Any, numerators: Any, mean: Any, scale: Any, sound: Any) -> jax.Array:
    """One answer as a row, u32[6 L + 2]."""
    doubles = (jax.lax.bitcast_convert_type(column, jnp.uint32).reshape(-1) for column in (mean, scale))
    signed = jax.lax.bitcast_convert_type(slates.astype(jnp.int32), jnp.uint32)
    return jnp.concatenate([signed, numerators.astype(jnp.uint32), *doubles, jnp.stack([sound, False]).astype(jnp.uint32)])


def answer_columns(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`slates` i32[n, L], `numerators` u32[n, L], `mean` and `scale` f64[n, L], `sound` bool[n] of answers u32[n, 6 L + 2]."""
    slots = (rows.shape[1] - 2) // 6
    doubles = rows[:, 2 * slots : 6 * slots].view(np.float64)
    slates, numerators = rows[:, :slots].view(np.int32), rows[:, slots : 2 * slots]
    return slates, numerators, doubles[:, :slots], doubles[:, slots:], rows[:, -2] != 0
