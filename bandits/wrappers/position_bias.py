"""Slots that are looked at less: rewards of lower slots are read as what they say of the action, not of the slot."""

from collections.abc import Sequence
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.errors import PolicyError
from bandits.policy import Batch, Policy, State
from protos import config

__all__ = ["PositionBiasSettings", "position_bias"]


class PositionBiasSettings(config.StrictModel):
    """Settings of `position_bias`."""

    #: Probability that a slot is looked at, top first, each in (0, 1]; further slots have the last one's.
    examination: tuple[Annotated[float, pydantic.Field(gt=0.0, le=1.0)], ...] = pydantic.Field(min_length=1)


def position_bias(policy: Policy, *, examination: Sequence[float]) -> Policy:
    """The policy on rows as the position-based model reads them: reward / e_l with weight x e_l for a row of slot l.

    The model (Chuklin et al. 2015, 3.3; Lagree et al. 2016, eq. 1): E[reward | action a in slot l] = e_l r(a), e_l the declared
    probability that the slot is looked at. So reward / e_l has mean r(a); for rare events its variance grows by 1 / e_l, hence the
    weight. For a policy that counts successes and trials it adds `reward` successes in e_l trials. It is for rows of slots that may
    not have been looked at, `train_on: all`; rows of slots known to be seen need none of it.

    Raises PolicyError for a probability outside (0, 1].
    """
    if not len(examination) or not all(0.0 < e <= 1.0 for e in examination):
        raise PolicyError(f"position_bias.examination: {examination!r} is refused; give a probability in (0, 1] for each slot, top first")
    declared = np.asarray(examination, np.float64)

    def update(state: State, batch: Batch) -> State:
        looked_at = jnp.asarray(declared)[jnp.clip(batch.slot, 0, len(declared) - 1)]
        return policy.update(state, batch._replace(reward=batch.reward / looked_at, weight=batch.weight * looked_at))

    return policy._replace(update=update)
