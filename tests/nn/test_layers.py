"""Layers over the stream axis: kernels, norms, resizing, randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ditask_jax.adapters import Adapter, DiTASK, LoRA
from ditask_jax.backbones import list_models
from ditask_jax.nn import BatchNorm, Context, LayerNorm, Scope, drop_path, dropout, flatten, resize_bilinear
from ditask_jax.nn.attention import _scaled, partition, reverse, shift_mask
from ditask_jax.nn.linear import apply_kernel
from ditask_jax.nn.stochastic import drop_shared, random_bits
from tests.adapters.cases import Wrapped


@pytest.mark.parametrize("std", [0.02, 0.1, 0.5, 1.0, 2.0, 50.0])
def test_initial_values_are_a_normal_distribution_cut_at_two(std):
    """Quantiles of all values against scipy's distribution; its tails; and no value more often than chance has it."""
    count = 200_000
    values = np.sort(np.asarray(Scope(seed=3).normal("kernel", (count,), std), float))
    law = stats.truncnorm(-2 / std, 2 / std, scale=std)
    assert np.abs(law.cdf(values) - (np.arange(count) + 0.5) / count).max() < 1.63 / np.sqrt(count)  # Kolmogorov, 1 %
    assert abs(values.mean()) < 4 * law.std() / np.sqrt(count)
    assert values.std() == pytest.approx(law.std(), rel=0.01)
    assert stats.kurtosis(values) == pytest.approx(float(law.stats("k")), abs=0.06)
    assert -2 <= values[0] <= values[-1] <= 2
    for sigmas in (2, 3):
        expected = 2 * law.sf(sigmas * std)
        assert (np.abs(values) > sigmas * std).mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / count))
    _, times = np.unique(values, return_counts=True)
    assert times.max() <= 10


@pytest.mark.parametrize("backbone", list_models("*_test"))
@pytest.mark.parametrize("method", [LoRA(), Adapter(), DiTASK(init="upstream")], ids=lambda method: method.name)
def test_no_initial_value_of_a_model_piles_up(backbone, method):
    """Of every random array of backbone, necks, heads and adapters, the largest and smallest value stand alone."""
    parts = Wrapped(method, backbone=backbone).parts
    arrays = {path: np.asarray(a).ravel() for path, a in (flatten(parts.trainable) | flatten(parts.frozen)).items()}
    drawn = {path: values for path, values in arrays.items() if len(np.unique(values)) > 100}
    assert len(drawn) > 10
    for path, values in drawn.items():
        assert (values == values.max()).sum() == (values == values.min()).sum() == 1, path


def test_kernels_by_stream():
    x = jax.random.normal(jax.random.key(0), (3, 4, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 5, 2))
    by_hand = jnp.stack([x[s] @ kernel[s] for s in range(3)])
    np.testing.assert_allclose(apply_kernel(x, kernel), by_hand, rtol=1e-6)
    np.testing.assert_allclose(apply_kernel(x[:1], kernel), jnp.stack([x[0] @ k for k in kernel]), rtol=1e-6)
    np.testing.assert_allclose(apply_kernel(x, kernel[0]), x @ kernel[0], rtol=1e-6)


@pytest.mark.parametrize("size", [(6, 4), (3, 5), (8, 8), (1, 7)])
def test_resize_equals_the_reference(size):
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    expected = jax.image.resize(x, (2, *size, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(resize_bilinear(x, size), expected, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_there_and_back(shift):
    x = jax.random.normal(jax.random.key(0), (2, 3, 8, 12, 5))
    windows = partition(x, 4, shift)
    assert windows.shape == (2, 3 * 6, 16, 5)
    np.testing.assert_array_equal(reverse(windows, 4, shift, (8, 12)), x)


def test_mask_separates_what_the_shift_joined():
    mask = shift_mask((8, 8), 4, 2)
    assert mask.shape == (4, 16, 16)
    assert (mask[0] == 0).all()
    assert (mask[3] != 0).any()
    np.testing.assert_array_equal(mask, mask.transpose(0, 2, 1))


def test_layer_norm_keeps_the_dtype_and_works_in_float32():
    norm = LayerNorm(64, Scope())
    x = 100 + jax.random.normal(jax.random.key(0), (1, 2, 3, 3, 64))
    exact = np.asarray(norm(x))
    assert np.abs(exact.mean(-1)).max() < 1e-4
    half = norm(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_batch_norm_statistics_follow_torch():
    norm = BatchNorm(3, Scope())
    x = 2 + 3 * jax.random.normal(jax.random.key(0), (4, 5, 5, 3))
    out = norm(x, Context(train=True))
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    np.testing.assert_allclose(norm.mean[...], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.variance[...], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(out).reshape(-1, 3).std(0), 1, rtol=1e-4)
    before = np.asarray(norm.mean[...])
    norm(x, Context(train=False))
    np.testing.assert_array_equal(before, norm.mean[...])


def test_random_bits_look_random_and_depend_on_key_and_place():
    key = jnp.array([7, 9], jnp.uint32)
    bits = np.asarray(random_bits(key, (64, 1024)))
    ones = np.unpackbits(bits.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 2e-3
    assert len(np.unique(bits)) > 0.999 * bits.size
    assert (bits != np.asarray(random_bits(key + jnp.uint32(1), (64, 1024)))).mean() > 0.999
    flips = np.unpackbits((bits[:, 1:] ^ bits[:, :-1]).copy().view(np.uint8)).mean()
    assert abs(flips - 0.5) < 2e-3


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_dropout_rate_and_mean(rate):
    context = Context(train=True, key=jax.random.key(0))
    x = jnp.ones((1, 64, 64, 32))
    out = np.asarray(dropout(x, rate, context, "layer"))
    assert abs((out == 0).mean() - rate) < 5e-3
    assert abs(out.mean() - 1) < 1e-2
    assert dropout(x, rate, Context(train=False), "layer") is x


def test_drop_path_is_drawn_per_stream_and_example_by_name():
    context = Context(train=True, key=jax.random.key(0))
    x = jnp.ones((3, 256, 1, 1, 1))
    out = np.asarray(drop_path(x, 0.5, context, "block", ("shared", "a", "b")))[..., 0, 0, 0]
    assert set(np.unique(out)) == {0.0, 2.0}
    assert abs((out == 0).mean() - 0.5) < 0.1
    assert (out[0] != out[1]).any()
    alone = np.asarray(drop_path(x[:2], 0.5, context, "block", ("b", "shared")))[..., 0, 0, 0]
    np.testing.assert_array_equal(alone[0], out[2])
    np.testing.assert_array_equal(alone[1], out[0])


def test_drawing_without_a_key_is_a_clear_error():
    with pytest.raises(ValueError, match="needs Context"):
        dropout(jnp.ones((1, 2, 3)), 0.5, Context(train=True), "layer")


@pytest.mark.parametrize(
    ("scaled", "factor"),
    [
        (lambda x, context: dropout(x, 0.1, context, "a"), 1 / 0.9),
        (lambda x, context: drop_shared(x, 0.1, context, "a", ("shared", "b")), 1 / 0.9),
        (lambda x, context: drop_path(x, 0.1, context, "a", ("shared", "b")), 1 / 0.9),
        (lambda x, context: _scaled(x), 12**-0.5),
    ],
    ids=["dropout", "dropout of the first stream", "drop path", "attention"],
)
def test_a_scale_is_rounded_behind_the_product_in_bfloat16(scaled, factor):
    """1 - rate and 1 / sqrt(D) are no numbers of that dtype: rounded before, they scale by up to 0.2 % too much."""
    context = Context(train=True, key=jax.random.key(1), dtype=jnp.bfloat16)
    x = jnp.asarray(1 + np.random.default_rng(0).random((2, 64, 16, 12)), jnp.bfloat16)
    found = np.asarray(scaled(x, context), np.float64)[0]
    kept = found != 0
    assert kept.mean() > 0.7
    assert abs(found[kept].sum() / np.asarray(x, np.float64)[0][kept].sum() / factor - 1) < 2e-4
