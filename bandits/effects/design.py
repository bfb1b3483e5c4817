"""The columns of a regression, on cells: intercept, arms, covariates, and products of arms with centred covariates. Pure.

Numbers are standardised, z = (x - shift) / scale, so that normal equations lose no digits; `Design.raw` brings coefficients back. A factor
is one-hot here, on cells and never on rows, less its first level; many levels make the matrix sparse.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

__all__ = ["Design", "Part", "arms_part", "assembled", "centred", "factor_part", "intercept", "number_part", "parts_of", "products"]

# Beyond so many columns most of a matrix of indicators is zeros.
_MOST_DENSE = 96


class Part(NamedTuple):
    """Some columns of a design, [C, q] each: `names`, `values` after shift and scale, `shift` and `scale` f64[q]."""

    names: tuple[str, ...]
    values: Any
    shift: np.ndarray
    scale: np.ndarray


class Design(NamedTuple):
    """`matrix` [C, p], dense or CSR; the first column is the intercept. `names`, `shift`, `scale` of its columns."""

    names: tuple[str, ...]
    matrix: Any
    shift: np.ndarray
    scale: np.ndarray

    def columns(self, kept: np.ndarray) -> "Design":
        """The design with some of its columns, a mask bool[p]."""
        names = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        return Design(names, self.matrix[:, np.flatnonzero(kept)], self.shift[kept], self.scale[kept])

    def gram(self, weight: np.ndarray) -> np.ndarray:
        """X' W X, f64[p, p]; `weight` f64[C]."""
        if scipy.sparse.issparse(self.matrix):
            return (self.matrix.T @ self.matrix.multiply(weight[:, None])).toarray()
        return self.matrix.T @ (weight[:, None] * self.matrix)

    def mean(self, weight: np.ndarray) -> np.ndarray:
        """Weighted means of the columns as they were before shift and scale, f64[p]."""
        return (self.matrix.T @ weight) / weight.sum() * self.scale + self.shift

    def raw(self) -> np.ndarray:
        """T of b_raw = T b: coefficients of the columns as they were before shift and scale, f64[p, p]."""
        back = np.diag(1.0 / self.scale)
        back[0] -= self.shift / self.scale
        return back


def intercept(size: int) -> Part:
    """The column of ones."""
    return Part(("intercept",), np.ones((size, 1)), np.zeros(1), np.ones(1))


def number_part(name: str, values: np.ndarray, weight: np.ndarray) -> Part:
    """A column of numbers, standardised by its weighted moments; a constant one becomes zeros, which `fit` drops by name."""
    shift = float(np.average(values, weights=weight))
    spread = float(np.sqrt(np.average((values - shift) ** 2, weights=weight)))
    # The spread of a constant is a rounding error of its size.
    scale = spread if spread > 1e-11 * max(abs(shift), np.finfo(np.float64).tiny) else 0.0
    standardised = (values - shift) / scale if scale else np.zeros_like(values)
    return Part((name,), standardised[:, None], np.array([shift]), np.array([scale or 1.0]))


def factor_part(name: str, codes: np.ndarray, levels: Sequence[str], *, reference: int | None = None) -> Part:
    """Indicators of the levels that occur, less `reference` (None = the first that occurs), as CSR."""
    present = np.unique(codes)
    kept = present[present != (present[0] if reference is None else reference)]
    place = np.full(len(levels), -1)
    place[kept] = np.arange(len(kept))
    rows = np.flatnonzero(place[codes] >= 0)
    values = scipy.sparse.csr_array((np.ones(len(rows)), (rows, place[codes[rows]])), shape=(len(codes), len(kept)))
    return Part(tuple(f"{name}={levels[level]}" for level in kept), values, np.zeros(len(kept)), np.ones(len(kept)))


def arms_part(codes: np.ndarray, arms: Sequence[str], *, control: int) -> Part:
    """Indicators of the arms that occur, less the control; dense, named by the arm alone."""
    part = factor_part("", codes, arms, reference=control)
    return part._replace(names=tuple(name[1:] for name in part.names), values=part.values.toarray())


def centred(part: Part, weight: np.ndarray) -> Part:
    """The columns less their weighted means: then the effect beside their products is the one at the mean."""
    dense = part.values.toarray() if scipy.sparse.issparse(part.values) else part.values
    return part._replace(values=dense - np.average(dense, axis=0, weights=weight))


def products(arms: Part, modifiers: Sequence[Part]) -> list[Part]:
    """arm x modifier, for each arm and each modifier's columns; modifiers are centred, so nothing is shifted back."""
    found = []
    for at, arm in enumerate(arms.names):
        for part in modifiers:
            values = arms.values[:, at : at + 1] * part.values
            found.append(Part(tuple(f"{arm} x {name}" for name in part.names), values, np.zeros(len(part.names)), part.scale))
    return found


def assembled(parts: Sequence[Part]) -> Design:
    """The parts side by side; sparse where there are many columns and most of them indicators."""
    width = sum(len(part.names) for part in parts)
    if width > _MOST_DENSE and any(scipy.sparse.issparse(part.values) for part in parts):
        matrix: Any = scipy.sparse.hstack([scipy.sparse.csr_array(part.values) for part in parts], format="csr")
    else:
        matrix = np.hstack([part.values.toarray() if scipy.sparse.issparse(part.values) else part.values for part in parts])
    names = tuple(name for part in parts for name in part.names)
    return Design(names, matrix, np.concatenate([part.shift for part in parts]), np.concatenate([part.scale for part in parts]))


def parts_of(columns: Mapping[str, np.ndarray], levels: Mapping[str, Sequence[str] | None], weight: np.ndarray) -> list[Part]:
    """The parts of covariates, in their order: numbers where `levels` says None, else factors."""
    found = []
    for name, values in columns.items():
        words = levels[name]
        found.append(number_part(name, values, weight) if words is None else factor_part(name, values, words))
    return found
