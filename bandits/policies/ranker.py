"""The ranker that is there already: candidates come with its scores, and the policy draws by them.

Plackett-Luce:  p_k = exp(s_k / temperature) / sum_j exp(s_j / temperature) over the candidates that are left, slot by slot
(Plackett 1975; Luce 1959). With `draw` "best" the largest score is taken, which is the ranker as it was.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.policies.row_count import count_rows, no_rows
from bandits.policies.rules import boltzmann, greedy
from bandits.policy import Candidates, Dims, Policy, added
from protos import config

__all__ = ["RankerScores", "RankerSettings", "ranker"]


class RankerSettings(config.StrictModel):
    """Settings of `ranker`."""

    #: `plackett_luce` draws by the scores as logits; `best` takes the largest and leaves exploration to the floor.
    draw: Literal["plackett_luce", "best"] = "plackett_luce"
    #: Units of the score that multiply a candidate's odds by e, > 0.
    temperature: float = pydantic.Field(default=1.0, gt=0.0)


class RankerScores(NamedTuple):
    """`mean` and `scale` f64[K] zero: the score is in the ranker's units, not of reward. `rank` f64[K]: the score."""

    mean: jax.Array
    scale: jax.Array
    rank: jax.Array


def ranker(dims: Dims, *, draw: Literal["plackett_luce", "best"] = "plackett_luce", temperature: float = 1.0) -> Policy:
    """Draws by `Candidates.score`; a score that is not finite counts as the 0 of none. Its state counts rows, f64[]."""

    def prepare(state: jax.Array) -> jax.Array:
        return state

    def score(params: jax.Array, context: jax.Array, candidates: Candidates, key: jax.Array) -> RankerScores:
        nothing = jnp.zeros(candidates.action.shape[0], jnp.float64)
        return RankerScores(mean=nothing, scale=nothing, rank=jnp.where(jnp.isfinite(candidates.score), candidates.score, 0.0))

    def plackett_luce(scores: RankerScores, mask: jax.Array) -> jax.Array:
        return boltzmann(scores.rank / temperature, mask)

    def best(scores: RankerScores, mask: jax.Array) -> jax.Array:
        return greedy(scores.rank, mask)

    choose = {"plackett_luce": plackett_luce, "best": best}[draw]
    return Policy(init=no_rows, update=count_rows, prepare=prepare, score=score, choose=choose, merge=added)
