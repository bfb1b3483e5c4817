"""Every policy by name. Adding a name here is what puts a policy under the contract suite, into configs and into snapshots.

A policy that another distribution brings is found by its entry point, under a name that is not one of these.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bandits import entry_points
from bandits.errors import PolicyError
from bandits.outcomes import AsksForOutcomes
from bandits.policies.arm_sums import RangeSettings
from bandits.policies.beta_bernoulli import BetaBernoulliSettings, beta_bernoulli
from bandits.policies.constrained import ConstrainedSettings, constrained_thompson
from bandits.policies.counterfactual import CounterfactualSettings, counterfactual
from bandits.policies.effect_model import BoostedHteSettings, LinearHteSettings, boosted_hte, linear_hte
from bandits.policies.ensemble import EnsembleSettings, ensemble
from bandits.policies.epsilon_greedy import EpsilonGreedySettings, epsilon_greedy
from bandits.policies.fixed import FixedSettings, fixed
from bandits.policies.gaussian_thompson import GaussianThompsonSettings, gaussian_thompson
from bandits.policies.linear_thompson import (
    CorrelatedThompsonSettings,
    LinearThompsonSettings,
    linear_thompson,
    linear_thompson_hybrid,
    linear_thompson_shared,
)
from bandits.policies.linear_ucb import FeaturesUcbSettings, LinearUcbSettings, linear_ucb, linear_ucb_hybrid, linear_ucb_shared
from bandits.policies.logistic import LogisticThompsonSettings, LogisticUcbSettings, logistic_thompson, logistic_ucb
from bandits.policies.neural_linear import NeuralLinearSettings, neural_linear
from bandits.policies.policy_tree import PolicyTreeSettings, policy_tree
from bandits.policies.ranker import RankerSettings, ranker
from bandits.policies.reg_cb import RegCbSettings, reg_cb
from bandits.policies.softmax import SoftmaxSettings, softmax
from bandits.policies.square_cb import SquareCbSettings, square_cb
from bandits.policies.uniform import uniform
from bandits.policies.upper_bounds import kl_ucb, ucb1
from bandits.policy import Dims, Policy
from bandits.preselection import PRESELECT
from bandits.wrappers import declared
from bandits.wrappers.floor import floor
from protos import config

__all__ = ["CATALOG", "Entry", "PolicySpec", "build", "exact_update", "find", "outcomes", "parsed", "plain", "providers"]


class UniformSettings(config.StrictModel):
    """`uniform` has no settings."""


class Entry(NamedTuple):
    """A policy of the catalog."""

    #: `factory(dims, **settings) -> Policy`; with `policies` too, which builds others by name and settings, where settings bring one in.
    factory: Callable[..., Policy]
    settings: type[config.StrictModel]
    #: true = batches commute and merge, and a revised row takes the old one back exactly; by default, where settings decide it.
    exact_update: bool
    #: What its logged propensity is.
    propensity: str
    #: false = mean and scale tell no candidate from another, so a long list is never cut to its best by them.
    ranks: bool = True
    #: true = the distribution follows from the request's key too (posterior draws), so two decisions on one request may differ in it.
    keyed: bool = False


_BY_DRAWS = "exact for the draw; of Thompson sampling by 256 joint draws from the request's key, with a standard error of 0.03 at most"

CATALOG: Mapping[str, Entry] = {
    "uniform": Entry(factory=uniform, settings=UniformSettings, exact_update=True, propensity="exact", ranks=False),
    "linear_thompson": Entry(
        factory=linear_thompson,
        settings=LinearThompsonSettings,
        exact_update=True,
        propensity="exact for the draw; of Thompson sampling by quadrature, within 1e-4 while scales differ by up to 100",
    ),
    "linear_thompson_shared": Entry(
        factory=linear_thompson_shared, settings=CorrelatedThompsonSettings, exact_update=True, propensity=_BY_DRAWS, keyed=True
    ),
    "linear_thompson_hybrid": Entry(
        factory=linear_thompson_hybrid, settings=CorrelatedThompsonSettings, exact_update=True, propensity=_BY_DRAWS, keyed=True
    ),
    "linear_ucb": Entry(factory=linear_ucb, settings=LinearUcbSettings, exact_update=True, propensity="exact"),
    "linear_ucb_shared": Entry(factory=linear_ucb_shared, settings=FeaturesUcbSettings, exact_update=True, propensity="exact"),
    "linear_ucb_hybrid": Entry(factory=linear_ucb_hybrid, settings=FeaturesUcbSettings, exact_update=True, propensity="exact"),
    "beta_bernoulli": Entry(
        factory=beta_bernoulli,
        settings=BetaBernoulliSettings,
        exact_update=True,
        propensity="exact for the draw; of Thompson sampling by quadrature, within 1e-8 for up to 20 actions",
    ),
    "gaussian_thompson": Entry(
        factory=gaussian_thompson,
        settings=GaussianThompsonSettings,
        exact_update=True,
        propensity="exact for the draw; of Thompson sampling by quadrature, within 1e-4 while scales differ by up to 100",
    ),
    "ucb1": Entry(factory=ucb1, settings=RangeSettings, exact_update=True, propensity="exact"),
    "kl_ucb": Entry(factory=kl_ucb, settings=RangeSettings, exact_update=True, propensity="exact"),
    "fixed": Entry(factory=fixed, settings=FixedSettings, exact_update=True, propensity="exact", ranks=False),
    "ranker": Entry(factory=ranker, settings=RankerSettings, exact_update=True, propensity="exact", ranks=False),
    "epsilon_greedy": Entry(factory=epsilon_greedy, settings=EpsilonGreedySettings, exact_update=True, propensity="exact"),
    "softmax": Entry(factory=softmax, settings=SoftmaxSettings, exact_update=True, propensity="exact"),
    "square_cb": Entry(factory=square_cb, settings=SquareCbSettings, exact_update=True, propensity="exact"),
    "reg_cb": Entry(factory=reg_cb, settings=RegCbSettings, exact_update=True, propensity="exact"),
    "logistic_thompson": Entry(
        factory=logistic_thompson,
        settings=LogisticThompsonSettings,
        exact_update=False,
        propensity="exact for the draw; of Thompson sampling by quadrature on the log-odds, whose posterior is a Laplace approximation",
    ),
    "logistic_ucb": Entry(factory=logistic_ucb, settings=LogisticUcbSettings, exact_update=False, propensity="exact"),
    "neural_linear": Entry(
        factory=neural_linear,
        settings=NeuralLinearSettings,
        exact_update=False,
        propensity="exact for the draw; of Thompson sampling given the network by quadrature, as linear_thompson",
    ),
    "ensemble": Entry(
        factory=ensemble,
        settings=EnsembleSettings,
        exact_update=False,
        propensity="exact: the share of the members that prefer it",
    ),
    "constrained_thompson": Entry(
        factory=constrained_thompson,
        settings=ConstrainedSettings,
        exact_update=True,
        propensity="exact for the draw; of constrained Thompson sampling by 256 joint draws from the request's key, as above",
        # The best rewards may all be infeasible, so a cut by them could leave nothing to play.
        ranks=False,
        keyed=True,
    ),
    "counterfactual": Entry(factory=counterfactual, settings=CounterfactualSettings, exact_update=False, propensity="exact"),
    "policy_tree": Entry(factory=policy_tree, settings=PolicyTreeSettings, exact_update=True, propensity="exact", ranks=False),
    "linear_hte": Entry(
        factory=linear_hte,
        settings=LinearHteSettings,
        exact_update=True,
        propensity="exact; with covariances, of Thompson sampling by quadrature, as linear_thompson",
    ),
    "boosted_hte": Entry(
        factory=boosted_hte, settings=BoostedHteSettings, exact_update=True, propensity="exact; with draws, the share of them, by counting"
    ),
}


class PolicySpec(NamedTuple):
    """What makes two policies the same program and the same meaning.

    `settings` and `wrappers` are canonical JSON; `preselect` the most candidates that are drawn from, 0 = all.
    """

    name: str
    settings: str
    floor: float
    dims: Dims
    wrappers: str = "[]"
    preselect: int = 0

    @classmethod
    def of(
        cls,
        name: str,
        settings: Mapping[str, Any],
        *,
        floor: float,
        dims: Dims,
        wrappers: Sequence[Mapping[str, Any]] = (),
        preselect: int = PRESELECT,
    ) -> "PolicySpec":
        """A checked spec: unknown names and settings are refused with the nearest one. Raises PolicyError or ConfigError."""
        entry = find(name)
        return cls(
            name=name,
            settings=json.dumps(_settled(name, settings), sort_keys=True),
            floor=floor,
            dims=dims,
            wrappers=declared.canonical(wrappers, settled=_settled),
            preselect=preselect if entry.ranks else 0,
        )

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the policy and of those that its wrappers and settings bring in."""
        return tuple(name for name, _ in _with_settings(self))


def find(name: str) -> Entry:
    """The entry of a name: our own, or one that an installed distribution brings.

    Raises PolicyError with the nearest name where there is none, or where what is brought is no Entry.
    """
    if name in CATALOG:
        return CATALOG[name]
    found = entry_points.brought(entry_points.POLICIES, name)
    if found is None:
        known = {*CATALOG, *entry_points.brought_names(entry_points.POLICIES)}
        raise PolicyError(f"policy.name: {name!r} is not in the catalog; {config.nearest(name, known)}")
    if not isinstance(found.value, Entry):
        raise PolicyError(f"policy.name: {name!r} of {found.distribution} is {found.value!r}, no bandits.catalog.Entry; ask its makers")
    return found.value


def providers(spec: PolicySpec) -> dict[str, str]:
    """Name -> `distribution==version` of the policies of a spec that are not our own."""
    theirs = [name for name in spec.policies if name not in CATALOG]
    installed = entry_points.brought_names(entry_points.POLICIES) if theirs else {}
    return {name: installed.get(name, "not installed") for name in theirs}


def exact_update(spec: PolicySpec) -> bool:
    """true = batches commute and merge, and a revised row takes the old one back exactly: so for all policies of the spec."""
    return all(_learns_exactly(name, parsed(name, settings)) for name, settings in _with_settings(spec))


def outcomes(spec: PolicySpec) -> tuple[str, ...]:
    """Names of the outcomes that the policies of a spec ask for, in the order of the columns of `Batch.outcomes`.

    Raises PolicyError where two of them ask for different ones: there is one order of columns.
    """
    asked = [own.outcomes for name, settings in _with_settings(spec) if isinstance(own := parsed(name, settings), AsksForOutcomes)]
    asked = [names for names in dict.fromkeys(asked) if names]
    if len(asked) > 1:
        raise PolicyError(f"policy: its members ask for outcomes {list(asked[0])} and {list(asked[1])}; give them the same constraints")
    return asked[0] if asked else ()


def parsed(name: str, settings: Mapping[str, Any]) -> config.StrictModel:
    """The settings of a policy of the catalog, every default written out. Raises PolicyError or ConfigError."""
    return config.parse(find(name).settings, dict(settings), where="policy.settings")


def plain(entry: Entry, dims: Dims, settings: Mapping[str, Any] | None = None) -> Policy:
    """The policy of an entry without floor or wrappers; settings that are left out have their defaults. Raises ConfigError."""
    own = config.parse(entry.settings, dict(settings or {}), where="policy.settings")
    brought = {"policies": lambda name, given: plain(find(name), dims, given)} if isinstance(own, AsksForOutcomes) else {}
    return entry.factory(dims, **own.model_dump(mode="json"), **brought)


def build(spec: PolicySpec) -> Policy:
    """The policy of a spec, inside its wrappers, its floor on."""
    around = declared.Around(spec.dims, lambda name, settings: plain(find(name), spec.dims, settings))
    return floor(declared.wrapped(around.policy(spec.name, json.loads(spec.settings)), spec.wrappers, around), spec.floor)


def _settled(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every default written out, so that a later default changes no snapshot."""
    own = parsed(name, settings)
    if isinstance(own, AsksForOutcomes) and own.member is not None:
        own = own.with_member(_settled(*own.member))
    return own.model_dump(mode="json")


def _with_settings(spec: PolicySpec) -> list[tuple[str, Mapping[str, Any]]]:
    """The policies of a spec, each with its settings: its own, those that its wrappers bring in, and those that settings do."""
    found: list[tuple[str, Mapping[str, Any]]] = [(spec.name, json.loads(spec.settings))]
    found += [(member.policy, member.settings) for member in declared.members(spec.wrappers)]
    for name, settings in found:
        own = parsed(name, settings)
        if isinstance(own, AsksForOutcomes) and own.member is not None:
            found.append(own.member)
    return found


def _learns_exactly(name: str, settings: config.StrictModel) -> bool:
    return settings.learns_exactly if isinstance(settings, AsksForOutcomes) else find(name).exact_update
