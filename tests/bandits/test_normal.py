"""The fast normal distribution against scipy's."""

import jax
import numpy as np
import pytest
import scipy.special
from jax import numpy as jnp

from bandits.normal import density_and_distribution

Z = np.concatenate([np.linspace(-9.0, 9.0, 20_001), [-40.0, -1e9, 0.0, 40.0, 1e9]])


def test_float64_is_right_to_the_last_digits() -> None:
    density, below = jax.jit(density_and_distribution)(Z)
    np.testing.assert_allclose(below, scipy.special.ndtr(Z), rtol=0, atol=5e-16)
    np.testing.assert_allclose(density, np.exp(-0.5 * np.minimum(np.abs(Z), 37.0) ** 2), rtol=1e-12)
    middle = np.abs(Z) <= 7.0
    np.testing.assert_allclose(np.asarray(below)[middle], scipy.special.ndtr(Z[middle]), rtol=3e-9)


def test_float32_is_right_to_its_own_digits_and_stays_float32() -> None:
    density, below = jax.jit(density_and_distribution)(Z.astype(np.float32))
    assert density.dtype == below.dtype == jnp.float32
    np.testing.assert_allclose(below, scipy.special.ndtr(Z.astype(np.float32)), rtol=0, atol=2e-7)
    # The relative error of a tail is that of z^2 / 2 in float32: 2e-6 at the end of the quadrature's range.
    tail = (Z > -5.6) & (Z < 0.0)
    assert np.asarray(below)[tail] == pytest.approx(scipy.special.ndtr(Z[tail]), rel=5e-6)
