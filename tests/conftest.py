"""Suite-wide strictness: strict dtype and rank promotion in JAX."""

import jax

import bandits  # noqa: F401 (its settings of JAX come before the first computation)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
