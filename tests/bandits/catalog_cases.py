"""Names of the catalog as test cases: for tests of machinery that all policies share, and that compile several programs a policy."""

from typing import Any

import pytest

from bandits.catalog import CATALOG

__all__ = ["ONE_OF_A_KIND", "by_kind"]

# One policy of each kind of program: no model, quadrature, posterior draws, a rule, a network, a grid. The machinery cannot tell the others
# of a kind apart; the contract suite and the propensity truth run over all of them.
ONE_OF_A_KIND = frozenset({"uniform", "linear_thompson", "linear_thompson_shared", "linear_ucb", "neural_linear", "beta_bernoulli"})


def by_kind() -> list[Any]:
    """Every name of the catalog; those beyond one of a kind are left to `make test-slow`."""
    return [name if name in ONE_OF_A_KIND else pytest.param(name, marks=pytest.mark.slow) for name in sorted(CATALOG)]
