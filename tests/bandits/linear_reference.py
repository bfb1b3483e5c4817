"""The linear family by its definition: one big design of every row, standardised row by row first, solved by a plain inverse."""

from typing import NamedTuple

import numpy as np

__all__ = ["Columns", "LinearReference", "linear_reference"]

SIGNAL, OF_PRODUCTS = 4.0, 0.5
SHARES, STRONG = (1.0, 0.5, 0.25), 3.0


class Columns(NamedTuple):
    """Raw columns of rows or of candidates: `context` f64[n, d], `features` f64[n, f], `block` i[n]."""

    context: np.ndarray
    features: np.ndarray
    block: np.ndarray


class LinearReference(NamedTuple):
    """Posterior of the candidates' expected rewards: `mean` [K], `covariance` [K, K]."""

    mean: np.ndarray
    covariance: np.ndarray


def linear_reference(
    rows: Columns,
    rewards: np.ndarray,
    candidates: Columns,
    *,
    blocks: int,
    squares: bool,
    pairs: tuple[tuple[int, int], ...] = (),
    prior_scale: float = 1.0,
) -> LinearReference:
    """`blocks` of own parameters; `pairs` (context column, action feature) whose products are shared columns."""
    n, d, f = len(rewards), rows.context.shape[1], rows.features.shape[1]
    z = (
        [np.column_stack(columns) for columns in zip(*[standard(rows, candidates, i) for i in range(d + f)], strict=True)]
        if d + f
        else None
    )
    z = z or [np.zeros((n, 0)), np.zeros((len(candidates.block), 0))]
    own_pairs = [(i, i) for i in range(d)] if squares else []
    common_pairs = ([(d + j, d + j) for j in range(f)] if squares else []) + [(i, d + j) for i, j in pairs]
    own = [z[0][:, :d], z[1][:, :d]]
    common = [z[0][:, d:], z[1][:, d:]]
    for target, chosen in ((own, own_pairs), (common, common_pairs)):
        for i, j in chosen:
            column = standardised(z[0][:, i] * z[0][:, j], z[1][:, i] * z[1][:, j])
            target[0], target[1] = (np.column_stack([part, new]) for part, new in zip(target, column, strict=True))
    own = [np.column_stack([np.ones(len(part)), part]) for part in own]
    design, at = (spread(o, c, b, blocks) for o, c, b in zip(own, common, (rows.block, candidates.block), strict=True))
    linear = max(own[0].shape[1] - 1 + common[0].shape[1], 1) / SIGNAL**2
    of_block = [1.0] + [linear] * d + [linear / OF_PRODUCTS**2] * len(own_pairs)
    widest = np.array(of_block * blocks + [linear] * f + [linear / OF_PRODUCTS**2] * len(common_pairs)) / prior_scale**2
    centre = rewards.mean() if n else 0.0
    odds = {share: evidence(design, rewards - centre, widest / share**2) + STRONG * (share == 1.0) for share in SHARES}
    precision = widest / max(SHARES, key=lambda share: odds[share]) ** 2
    posterior = np.linalg.inv(design.T @ design + np.diag(precision))
    weights = posterior @ design.T @ (rewards - centre)
    left = float((rewards - centre) @ (rewards - centre) - weights @ design.T @ (rewards - centre))
    noise = (rewards.var() + left) / (1.0 + n) if n else 1.0
    return LinearReference(mean=centre + at @ weights, covariance=noise * at @ posterior @ at.T)


def evidence(design: np.ndarray, y: np.ndarray, precision: np.ndarray) -> float:
    """Logarithm of the density of centred rewards under a prior, up to a constant: a Student t, written with its n x n matrix."""
    n = len(y)
    if n == 0 or y.std() < 1e-9:
        return 0.0
    covariance = np.eye(n) + design / precision @ design.T
    return float(-0.5 * np.linalg.slogdet(covariance)[1] - 0.5 * (1 + n) * np.log(y.var() + y @ np.linalg.solve(covariance, y)))


def standard(rows: Columns, candidates: Columns, column: int) -> tuple[np.ndarray, np.ndarray]:
    seen, asked = (np.column_stack([part.context, part.features])[:, column] for part in (rows, candidates))
    return standardised(seen, asked)


def standardised(seen: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the moments of `seen`; zero where it does not vary."""
    if len(seen) == 0 or seen.var() <= 1e-9 * max(np.mean(seen**2), 1e-300):
        return np.zeros(len(seen)), np.zeros(len(asked))
    return (seen - seen.mean()) / seen.std(), (asked - seen.mean()) / seen.std()


def spread(own: np.ndarray, common: np.ndarray, block: np.ndarray, blocks: int) -> np.ndarray:
    """Each row's own columns in the place of its block, the common ones behind all blocks."""
    places = np.zeros((len(block), blocks, own.shape[1]))
    places[np.arange(len(block)), block] = own
    return np.column_stack([places.reshape(len(block), blocks * own.shape[1]), common])
