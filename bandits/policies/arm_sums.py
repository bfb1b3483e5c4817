"""What policies without a context keep of each action: how many rows, their total reward. Plain sums, so they merge and take rows back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.errors import PolicyError
from bandits.policy import Batch, Dims
from protos import config

__all__ = ["ArmParams", "ArmSums", "RangeSettings", "RewardRange", "no_rows", "reward_range", "with_cold", "with_rows"]


class RangeSettings(config.StrictModel):
    """Settings of a policy that takes rewards between two ends."""

    #: The lowest reward there can be, or a failure; what lies below counts as it.
    reward_low: float = 0.0
    #: The highest reward there can be, or a success, above `reward_low`; what lies above counts as it.
    reward_high: float = 1.0

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> "RangeSettings":
        if not self.reward_low < self.reward_high:
            raise ValueError(f"reward_low {self.reward_low!r} is not below reward_high {self.reward_high!r}; exchange them")
        return self


class ArmSums(NamedTuple):
    """Sums over the rows of each action: `rows` f64[A], `total` f64[A] of rewards on the scale from 0 to 1."""

    rows: jax.Array
    total: jax.Array


class ArmParams(NamedTuple):
    """Of each action and, last, the cold one: `mean` and `scale` f64[A+1], units of reward; `index` f64[A+1], what is maximised."""

    mean: jax.Array
    scale: jax.Array
    index: jax.Array


class RewardRange(NamedTuple):
    """Rewards from `low` to `high` are 0 to 1 for the model; what lies outside counts as the nearer end."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Units of reward."""
        return self.high - self.low

    def share(self, reward: jax.Array) -> jax.Array:
        """Rewards on the scale from 0 to 1, clipped."""
        return jnp.clip((reward - self.low) / self.width, 0.0, 1.0)

    def reward(self, share: jax.Array) -> jax.Array:
        """Back in units of reward."""
        return self.low + self.width * share


def reward_range(low: float, high: float) -> RewardRange:
    """Raises PolicyError unless low < high."""
    if not low < high:
        raise PolicyError(
            f"policy.settings.reward_low: {low!r} is refused with reward_high {high!r}; give the lowest reward below the highest"
        )
    return RewardRange(low=low, high=high)


def no_rows(dims: Dims) -> ArmSums:
    """Before any row."""
    return ArmSums(rows=jnp.zeros(dims.actions, jnp.float64), total=jnp.zeros(dims.actions, jnp.float64))


def with_rows(state: ArmSums, batch: Batch, rewards: RewardRange) -> ArmSums:
    """After the rows of a batch; rows of an unknown action are left out."""
    actions = state.rows.shape[0]
    action = jnp.where(batch.action >= 0, batch.action, actions)
    share = rewards.share(jnp.asarray(batch.reward))
    # Column A takes the unknown, and is cut off.
    both = jnp.zeros((actions + 1, 2), jnp.float64).at[action].add(jnp.stack([batch.weight, batch.weight * share], axis=1))
    return ArmSums(rows=state.rows + both[:actions, 0], total=state.total + both[:actions, 1])


def with_cold(state: ArmSums) -> ArmSums:
    """With the cold action's place, which has no rows, behind the others."""
    return ArmSums(*(jnp.pad(leaf, (0, 1)) for leaf in state))
