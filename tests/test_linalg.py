"""Factors of frozen kernels."""

import numpy as np
import pytest

from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.factors import factorize

RANDOM = np.random.default_rng(0)
KERNELS = {
    "qkv": (RANDOM.normal(size=(12, 36)).astype(np.float32), 3),
    "wide": (RANDOM.normal(size=(8, 32)).astype(np.float32), 1),
    "tall": (RANDOM.normal(size=(32, 8)).astype(np.float32), 1),
    "zero": (np.zeros((4, 4), np.float32), 1),
}


@pytest.mark.parametrize("name", KERNELS)
def test_factors_rebuild_each_part(name):
    kernel, parts = KERNELS[name]
    left, values, right = factorize(kernel, parts)
    assert {array.dtype for array in (left, values, right)} == {np.dtype(np.float32)}
    assert (np.diff(values, axis=-1) <= 0).all()
    rebuilt = np.concatenate([(left[p] * values[p]) @ right[p] for p in range(parts)], axis=1)
    np.testing.assert_allclose(rebuilt, kernel, atol=2e-6)
    identity = np.eye(values.shape[1])
    np.testing.assert_allclose(
        np.swapaxes(left, 1, 2) @ left, np.broadcast_to(identity, (parts, *identity.shape)), atol=1e-6
    )
    largest = np.take_along_axis(left, np.abs(left).argmax(axis=1, keepdims=True), axis=1)
    assert (largest > 0).all()


def test_sign_does_not_depend_on_the_kernels_sign():
    kernel, parts = KERNELS["wide"]
    np.testing.assert_allclose(factorize(kernel, parts).left, factorize(-kernel, parts).left, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "parts", "error", "message"),
    [
        (np.ones(3), 1, ConfigError, "expected \\[in, out\\]"),
        (np.ones((2, 4)), 3, ConfigError, "4 outputs do not split into 3 equal parts"),
        (np.array([[1.0, np.nan]]), 1, WeightsError, "not finite"),
    ],
)
def test_bad_kernels_are_named(kernel, parts, error, message):
    with pytest.raises(error, match=message):
        factorize(kernel, parts)
