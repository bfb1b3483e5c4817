"""Thompson sampling under constraints on other outcomes (Daulton, Singh, Avadhanula, Dimmery and Bakshy 2019, algorithm 1).

    draw m:   r_km, c_kjm ~ joint posterior of reward and constrained outcomes;   F_m = {k : every constraint holds for c_k.m}
    plays     argmax over F_m of r_km, or the baseline where F_m is empty;        p_k = share of the M draws in which k is played

Reward and outcomes have a Bayesian model each (`outcome_models`); the constraints compare with the baseline under the same draw
(`constraints`). The draws follow from the request's key, and the same draws serve every slot of a slate under its mask, so what is logged
is the probability of the draw, exactly.

**What it does not promise.** A draw from the posterior is feasible as often as the posterior says, so an action whose feasibility is
uncertain is played now and then, early above all: sampling alone gives NO guarantee for any single round. It learns which actions are
feasible, and so violates ever less. `strict` asks more: an action is feasible only where the lower posterior quantile of its slack passes,
that is where the posterior gives a violation a probability of at most `strict`. That is as good as the model, and no better. The
exploration floor lies outside both. A constraint that no round may ever break is a `mask`.

"Thompson Sampling for Contextual Bandit Problems with Auxiliary Safety Constraints", arXiv:1911.00638.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.errors import PolicyError
from bandits.outcomes import REWARD
from bandits.policies.constraints import Baseline, Constraint, slack
from bandits.policies.linear_design import Basis
from bandits.policies.outcome_models import Kind, OutcomeModels, Stacked
from bandits.policies.posterior_draws import DRAWS
from bandits.policies.reward_table import RewardTable, levels_of
from bandits.policies.rules import even, greedy
from bandits.policy import Batch, Candidates, Dims, Policy, added
from protos import config

__all__ = ["ConstrainedScores", "ConstrainedSettings", "ConstrainedState", "Numbers", "constrained_by", "constrained_thompson"]

# Deviations of a draw of the reward in deviations of its posterior, as `linear_thompson` has it; outcomes are drawn from theirs as it is.
_EXPLORATION = 0.3
_NO_WORSE = (Constraint(outcome=REWARD, alpha=0.05),)


class ConstrainedSettings(config.StrictModel):
    """Settings of `constrained_thompson`. A task's file must name `baseline` and `constraints`: no default fits a product."""

    #: What plays where nothing is feasible, and what `alpha` is relative to: {action: ID}, or {policy: NAME, settings: ..., snapshot: ...}.
    baseline: Baseline = Baseline(policy="uniform")
    #: Bounds that an action must keep, all of them.
    constraints: tuple[Constraint, ...] = pydantic.Field(default=_NO_WORSE, min_length=1)
    #: What is maximised: a table over outcomes; without one, the task's scalar reward.
    reward: RewardTable | None = None
    #: Model of the reward: `logistic` for one in [0, 1] (its update is not exact), `linear` for any other.
    reward_model: Kind = "linear"
    #: Largest posterior probability of a violation, in [0.004, 0.5], that a feasible action may have. Without it, each draw decides alone.
    strict: float | None = pydantic.Field(default=None, ge=0.004, le=0.5)
    #: How much larger than by default a weight may be a priori, > 0. The default scale follows the features.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: `squares`: each feature also enters by its square, which bends the lines; `linear`: not.
    basis: Basis = "linear"
    #: Width of the draws of the reward in deviations of its posterior, > 0.
    exploration: float = pydantic.Field(default=_EXPLORATION, gt=0.0)
    #: Joint draws a request, 16..4096, a multiple of 4; probabilities are multiples of one over it.
    draws: int = pydantic.Field(default=DRAWS, ge=16, le=4096, multiple_of=4)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes that it learns, each once: the constrained ones, then those of the table."""
        named = [constraint.outcome for constraint in self.constraints] + list(self.reward.outcomes if self.reward else ())
        return tuple(dict.fromkeys(name for name in named if name != REWARD))

    @property
    def learns_exactly(self) -> bool:
        """Whether every model is linear."""
        return self.reward_model == "linear" and all(constraint.model == "linear" for constraint in self.constraints)

    @property
    def member(self) -> tuple[str, dict[str, Any]] | None:
        """Name and settings of the baseline's policy, where it is one."""
        return None if self.baseline.policy is None else (self.baseline.policy, self.baseline.settings)

    def with_member(self, settings: dict[str, Any]) -> "ConstrainedSettings":
        """The same with other settings of the baseline's policy."""
        return self.model_copy(update={"baseline": self.baseline.model_copy(update={"settings": settings})})

    def placed(self, *, actions: Sequence[str], outcomes: Sequence[str], given: Mapping[str, Any]) -> "ConstrainedSettings":
        """The settings of a task with the baseline's action turned into its place.

        `actions`: the task's catalogue; `outcomes`: names of its section `rewards`; `given`: what its file says. Raises PolicyError where
        the file names no baseline or no constraint, or an action or an outcome that the task does not have.
        """
        where = "policy.settings"
        if "baseline" not in given:
            raise PolicyError(f"{where}.baseline: none is declared; give {{action: ID}}, one of the task's actions, or {{policy: NAME}}")
        if "constraints" not in given:
            raise PolicyError(f"{where}.constraints: none is declared; bound an outcome, or take `linear_thompson`, which has no bounds")
        for name in self.outcomes:
            if name not in outcomes:
                raise PolicyError(
                    f"{where}: {name!r} is no outcome of the section `rewards`: no event carries it; {_known(name, outcomes)}"
                )
        action = self.baseline.action
        if action is None:
            return self
        if action not in actions and not (isinstance(action, int) and 0 <= action < len(actions)):
            raise PolicyError(f"{where}.baseline.action: {action!r} is no candidate of the task; {_known(str(action), actions)}")
        place = actions.index(str(action)) if action in actions else action
        return self.model_copy(update={"baseline": self.baseline.model_copy(update={"action": place})})


class Numbers(NamedTuple):
    """The settings that are mere numbers: `alpha` f64[J], 0 where a constraint is absolute; `worth`, the table's entries, of its shape."""

    alpha: jax.Array
    worth: jax.Array

    @classmethod
    def of(cls, settings: ConstrainedSettings) -> "Numbers":
        """Those that settings declare."""
        alpha = [constraint.alpha or 0.0 for constraint in settings.constraints]
        worth = () if settings.reward is None else settings.reward.worth
        return cls(jnp.asarray(alpha, jnp.float64), jnp.asarray(np.asarray(worth, np.float64)))


class ConstrainedState(NamedTuple):
    """What the models have learned, and the state of the baseline's policy; None where the baseline is an action."""

    models: Stacked
    baseline: Any


class ConstrainedScores(NamedTuple):
    """`mean` and `scale` f64[K] of the reward. Draws: `reward` f64[K, M], `outcome` f64[K, J, M] of the constrained outcomes.

    `reference` f64[J, M]: the baseline action's; `is_baseline` f64[K]: 1 for the candidate that it is; `policy`: scores of the
    baseline's policy.
    """

    mean: jax.Array
    scale: jax.Array
    reward: jax.Array
    outcome: jax.Array
    reference: jax.Array
    is_baseline: jax.Array
    policy: Any


def constrained_thompson(dims: Dims, *, policies: Callable[[str, Mapping[str, Any]], Policy], **settings: Any) -> Policy:
    """The best reward among the actions whose drawn outcomes keep their bounds beside the baseline's, else the baseline.

    `settings` as in `ConstrainedSettings`; `policies(name, settings)` gives the baseline's policy, where it is one. Raises PolicyError for
    a baseline that the action table lacks.
    """
    declared = ConstrainedSettings(**settings)
    return constrained_by(dims, declared, Numbers.of(declared), policies=policies)


def constrained_by(
    dims: Dims, settings: ConstrainedSettings, numbers: Numbers, *, policies: Callable[[str, Mapping[str, Any]], Policy]
) -> Policy:
    """`constrained_thompson` with `numbers` in place of those of its settings; they may be traced, so one program tries many of them."""
    declared = settings.baseline
    rule = _Rule(dims, settings, numbers, None if declared.policy is None else policies(declared.policy, declared.settings))
    return Policy(rule.init, rule.update, rule.prepare, rule.score, rule.choose, rule.merge if rule.merges else None)


class _Rule:
    """The policy's functions over one set of settings. `policy` is the baseline's."""

    def __init__(self, dims: Dims, settings: ConstrainedSettings, numbers: Numbers, policy: Policy | None) -> None:
        self._settings, self._numbers, self._policy = settings, numbers, policy
        kinds: list[Kind] = [settings.reward_model, *(constraint.model for constraint in settings.constraints)]
        self._models = OutcomeModels(dims, kinds, prior_scale=settings.prior_scale, basis=settings.basis)
        self._width = jnp.asarray([settings.exploration, *(1.0 for _ in settings.constraints)], jnp.float64)
        self._place = _place(settings.baseline, dims)
        self._frozen = bool(settings.baseline.snapshot)
        self.merges = self._models.exact and (policy is None or policy.merge is not None)

    def init(self) -> ConstrainedState:
        return ConstrainedState(self._models.init(), None if self._policy is None else self._policy.init())

    def update(self, state: ConstrainedState, batch: Batch) -> ConstrainedState:
        models = self._models.update(state.models, batch, self._values(batch))
        stands = self._policy is None or self._frozen
        return ConstrainedState(models, state.baseline if stands or self._policy is None else self._policy.update(state.baseline, batch))

    def prepare(self, state: ConstrainedState) -> ConstrainedState:
        if self._policy is None:
            return ConstrainedState(self._models.prepare(state.models), None)
        # One after the other: see `OutcomeModels.prepare`.
        models, baseline = jax.lax.optimization_barrier((self._models.prepare(state.models), state.baseline))
        return ConstrainedState(models, self._policy.prepare(baseline))

    def score(self, params: ConstrainedState, context: jax.Array, candidates: Candidates, key: jax.Array) -> ConstrainedScores:
        width, draws = self._width, self._settings.draws
        found = self._models.draw(params.models, context, candidates, key, width=width, draws=draws, extra=self._place)
        return ConstrainedScores(
            mean=found.mean,
            scale=found.scale,
            reward=found.draws[:, 0],
            outcome=found.draws[:, 1:],
            reference=found.extra[1:],
            is_baseline=jnp.where(candidates.action == (-1 if self._place is None else self._place), 1.0, 0.0),
            policy=None if self._policy is None else self._policy.score(params.baseline, context, candidates, key),
        )

    def choose(self, scores: ConstrainedScores, mask: jax.Array) -> jax.Array:
        baseline, reference = self._baseline(scores, mask)
        room = slack(self._settings.constraints, self._numbers.alpha, values=scores.outcome, reference=reference)
        allowed = self._feasible(room) & mask[:, None]
        best = jax.vmap(greedy, in_axes=1)(scores.reward, allowed)
        # Where neither an action is feasible nor the baseline eligible, what misses its bounds by least.
        nearest = jax.vmap(greedy, in_axes=(1, None))(jnp.min(room, axis=1), mask)
        instead = jnp.where(jnp.any(baseline > 0.0), baseline[None, :], nearest)
        played = jnp.where(jnp.any(allowed, axis=0)[:, None], best, instead)
        return jnp.mean(played, axis=0)

    def merge(self, left: ConstrainedState, right: ConstrainedState) -> ConstrainedState:
        models = added(left.models, right.models)
        if self._policy is None or self._policy.merge is None or self._frozen:
            return ConstrainedState(models, left.baseline)
        return ConstrainedState(models, self._policy.merge(left.baseline, right.baseline))

    def _values(self, batch: Batch) -> jax.Array:
        """Reward and constrained outcomes of the rows, f64[n, 1 + J]."""
        reward, columns = jnp.asarray(batch.reward), {name: place for place, name in enumerate(self._settings.outcomes)}

        def of(name: str) -> jax.Array:
            return reward if name == REWARD else jnp.asarray(batch.outcomes)[:, columns[name]]

        table = self._settings.reward
        maximised = reward
        if table is not None:
            maximised = self._numbers.worth[levels_of(table, jnp.stack([of(name) for name in table.outcomes], axis=1))]
        return jnp.stack([maximised, *(of(constraint.outcome) for constraint in self._settings.constraints)], axis=1)

    def _baseline(self, scores: ConstrainedScores, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The baseline's distribution over what is eligible, f64[K], and its outcomes under each draw, f64[J, M]."""
        if self._policy is None:
            return even((scores.is_baseline > 0.0) & mask), scores.reference
        p = self._policy.choose(scores.policy, mask)
        return p, jnp.sum(p[:, None, None] * scores.outcome, axis=0)

    def _feasible(self, room: jax.Array) -> jax.Array:
        """Which candidates keep every bound in which draws, bool[K, M]; `room` f64[K, J, M]."""
        keeps = room >= 0.0
        if self._settings.strict is None:
            return jnp.all(keeps, axis=1)
        # The quantile of level `strict` is >= 0 just where the share below 0 is at most `strict`.
        often = jnp.mean(keeps, axis=2) >= 1.0 - self._settings.strict
        return jnp.broadcast_to(jnp.all(often, axis=1)[:, None], (room.shape[0], room.shape[2]))


def _place(baseline: Baseline, dims: Dims) -> int | None:
    """Place of the baseline's action in the table; None where the baseline is a policy."""
    action = baseline.action
    if action is not None and not (isinstance(action, int) and 0 <= action < dims.actions):
        raise PolicyError(f"policy.settings.baseline.action: {action!r} is no place in a table of {dims.actions}; give one below")
    return action if isinstance(action, int) else None


def _known(name: str, names: Sequence[str]) -> str:
    return config.nearest(name, names) if names else "it has none"
