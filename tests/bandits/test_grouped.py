"""Gram matrices by group against the obvious loop."""

import jax
import numpy as np
import pytest

from bandits.grouped import gram_by_group


@pytest.mark.parametrize(("n", "groups"), [(0, 3), (1, 1), (63, 2), (64, 2), (65, 2), (500, 7), (40, 100)])
def test_blocks_give_what_a_loop_over_the_groups_gives(n: int, groups: int) -> None:
    rng = np.random.default_rng(n)
    rows, weight = rng.normal(size=(n, 5)), rng.choice([1.0, -1.0, 0.0], n)
    # Skewed, with groups that have no row and rows that have no group.
    group = np.minimum(rng.geometric(0.3, n) - 2, groups).astype(np.int32)
    found = jax.jit(lambda *parts: gram_by_group(*parts, groups=groups))(rows, weight, group)
    loop = [(rows[group == g] * weight[group == g, None]).T @ rows[group == g] for g in range(groups)]
    np.testing.assert_allclose(found, np.stack(loop), rtol=0, atol=1e-12)
