"""Gram matrices of rows by group, for the cost of one matrix product over the rows rather than one a group. Pure."""

import jax
import jax.numpy as jnp

__all__ = ["gram_by_group"]

# Rows of a block. Each block holds rows of one group; smaller blocks waste less padding, larger ones multiply faster.
_BLOCK = 64


def gram_by_group(rows: jax.Array, weight: jax.Array, group: jax.Array, *, groups: int) -> jax.Array:
    """sum over the rows r of group g of weight_r x_r x_r^T, [groups, D, D].

    `rows` [n, D], `weight` [n], `group` i32[n]; rows of a group outside 0..groups-1 are left out. The rows are sorted by group and cut
    into blocks of one group each, padded with weight 0: at most n / 64 + groups of them, whatever the groups' sizes.
    """
    rows, weight, group = jnp.asarray(rows), jnp.asarray(weight), jnp.asarray(group)
    n, width = rows.shape
    if n == 0:
        return jnp.zeros((groups, width, width), rows.dtype)
    inside = (group >= 0) & (group < groups)
    group = jnp.where(inside, group, groups).astype(jnp.int32)
    # Group and place as one number: sorting those costs a fifth of `argsort`, which carries the places along.
    order = jnp.sort((group.astype(jnp.int64) << 32) | jnp.arange(n)) & 0xFFFFFFFF
    counts = jnp.zeros(groups + 1, jnp.int32).at[group].add(1)
    blocks = -(-counts // _BLOCK)
    first_row, first_block = jnp.cumsum(counts) - counts, jnp.cumsum(blocks) - blocks
    block = jnp.arange(n // _BLOCK + groups + 1, dtype=jnp.int32)
    owner = jnp.searchsorted(jnp.cumsum(blocks), block, side="right").astype(jnp.int32)
    owner = jnp.minimum(owner, groups)
    start = first_row[owner] + (block - first_block[owner]) * _BLOCK
    place = start[:, None] + jnp.arange(_BLOCK, dtype=jnp.int32)[None, :]
    real = (place < (first_row + counts)[owner][:, None]) & (owner < groups)[:, None]
    row = order[jnp.clip(place, 0, n - 1)]
    cut = rows[row]
    weighted = cut * jnp.where(real, weight[row], 0.0)[:, :, None]
    products = jnp.einsum("bri,brj->bij", weighted, cut)
    return jnp.zeros((groups + 1, width, width), rows.dtype).at[owner].add(products)[:groups]
