"""The optimiser against a NumPy AdamW, and its weight-decay groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from ditask_jax.errors import ConfigError
from ditask_jax.training.optimizer import clip_by_global_norm, decay_mask, make_optimizer

RATE = 0.01


def _params():
    rng = np.random.default_rng(0)
    shapes = {"proj": {"theta": (7,), "theta_tasks": (2, 7)}, "attn": {"relative_position_bias_table": (9, 2)}}
    shapes |= {"norm": {"scale": (4,), "bias": (4,)}, "conv": {"kernel": (3, 3, 2, 4)}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def _adamw(params, gradients, mask, config):
    """AdamW after a global-norm clip, written out in float64."""
    p = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
    m, v = [np.zeros_like(x) for x in p], [np.zeros_like(x) for x in p]
    for n, gradient in enumerate(gradients, 1):
        g = [np.asarray(x, np.float64) for x in jax.tree.leaves(gradient)]
        norm = np.sqrt(sum((x**2).sum() for x in g))
        g = [x * min(1.0, config.clip_norm / (norm + 1e-6)) for x in g]
        for i, decayed in enumerate(jax.tree.leaves(mask)):
            m[i] = 0.9 * m[i] + 0.1 * g[i]
            v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
            p[i] -= RATE * config.weight_decay * p[i] * decayed
            p[i] -= RATE * (m[i] / (1 - 0.9**n)) / (np.sqrt(v[i] / (1 - 0.999**n)) + 1e-8)
    return p


@pytest.mark.parametrize("scale", [0.01, 100.0], ids=["unclipped", "clipped"])
def test_adamw_equals_numpy(scale):
    config = base.get_config().optimizer
    params = start = _params()
    transform = make_optimizer(config, lambda step: RATE, params)
    state = transform.init(params)
    gradients = [jax.tree.map(lambda x, k=k: scale * jnp.sin(x + k), start) for k in range(4)]
    update = jax.jit(transform.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    for got, expected in zip(jax.tree.leaves(params), _adamw(start, gradients, decay_mask(start), config), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_decay_groups_follow_names_ranks_and_switches():
    mask = decay_mask(_params())
    assert mask == {
        "proj": {"theta": True, "theta_tasks": True},
        "attn": {"relative_position_bias_table": True},
        "norm": {"scale": False, "bias": False},
        "conv": {"kernel": True},
    }
    mask = decay_mask(_params(), decay_thetas=False, decay_bias_tables=False)
    assert not any(jax.tree.leaves({"proj": mask["proj"], "attn": mask["attn"]}))
    assert mask["conv"]["kernel"]
    # A bias stacked over streams stays a bias, a relative-position table of any rank stays a table.
    assert decay_mask({"bias": jnp.ones((2, 3)), "relative_position_bias": jnp.ones(3)}) == {
        "bias": False,
        "relative_position_bias": True,
    }


def test_switches_reach_the_update():
    config = base.get_config().optimizer
    config.decay_thetas = False
    params = {"theta": jnp.ones(3)}
    zero = jax.tree.map(jnp.zeros_like, params)
    transform = make_optimizer(config, lambda step: 1.0, params)
    assert float(jnp.abs(transform.update(zero, transform.init(params), params)[0]["theta"]).max()) == 0.0
    config.decay_thetas = True
    transform = make_optimizer(config, lambda step: 1.0, params)
    np.testing.assert_allclose(transform.update(zero, transform.init(params), params)[0]["theta"], -0.05, rtol=1e-6)


def test_schedule_is_read_at_the_number_of_updates_done():
    config = base.get_config().optimizer
    config.weight_decay, config.name = 0.0, "sgd"
    config.betas = (0.0, 0.999)
    params = {"kernel": jnp.ones((1, 1))}
    transform = make_optimizer(config, lambda step: step + 1.0, params)
    state = transform.init(params)
    for expected in (-1.0, -2.0, -3.0):
        updates, state = transform.update({"kernel": jnp.ones((1, 1))}, state, params)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


def test_state_is_arrays_only_and_clip_can_be_switched_off():
    config = base.get_config().optimizer
    config.clip_norm = None
    state = make_optimizer(config, lambda step: RATE, _params()).init(_params())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


def test_clip_keeps_small_gradients_and_handles_zero():
    clip = clip_by_global_norm(5.0)
    small = {"a": jnp.array([3.0, 0.0])}
    np.testing.assert_array_equal(clip.update(small, None)[0]["a"], small["a"])
    np.testing.assert_array_equal(clip.update({"a": jnp.zeros(2)}, None)[0]["a"], jnp.zeros(2))
    large = clip.update({"a": jnp.array([30.0, 40.0])}, None)[0]["a"]
    np.testing.assert_allclose(large, [3.0, 4.0], rtol=1e-6)


def test_unknown_optimizer_is_named():
    config = base.get_config().optimizer
    config.name = "adam"
    with pytest.raises(ConfigError, match=r"optimizer.name: unknown name 'adam'\. Did you mean 'adamw'"):
        make_optimizer(config, lambda step: RATE, _params())
