"""The optimiser against a NumPy AdamW, and its weight-decay groups."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import ditask_jax
from configs import base
from ditask_jax.adapters import method_names, wrap
from ditask_jax.adapters.method_registry import method_class
from ditask_jax.errors import ConfigError
from ditask_jax.model import create_model
from ditask_jax.nn.state import Declared, flatten, split_state
from ditask_jax.tasks import create_tasks
from ditask_jax.training.optim.optimizer import clip_by_global_norm, make_optimizer, treatment
from tests.training.small import two_stages

RATE = 0.01


def _params():
    rng = np.random.default_rng(0)
    shapes = {"proj": {"theta": (7,), "theta_tasks": (2, 7)}, "attn": {"relative_position_bias_table": (9, 2)}}
    shapes |= {"norm": {"scale": (4,), "bias": (4,)}, "conv": {"kernel": (3, 3, 2, 4)}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def _declared(**tree):
    """The declarations of `_params`, or of another tree of the values of `decay`."""
    tree = tree or {
        "proj": {"theta": "thetas", "theta_tasks": "thetas"},
        "attn": {"relative_position_bias_table": "bias_tables"},
        "norm": {"scale": False, "bias": False},
        "conv": {"kernel": True},
    }
    return jax.tree.map(Declared, tree)


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
    transform = make_optimizer(config, lambda step: RATE, _declared())
    state = transform.init(params)
    gradients = [jax.tree.map(lambda x, k=k: scale * jnp.sin(x + k), start) for k in range(4)]
    update = jax.jit(transform.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    mask = jax.tree.map(lambda leaf: treatment(leaf, config).decays, _declared())
    for got, expected in zip(jax.tree.leaves(params), _adamw(start, gradients, mask, config), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("switch", ["thetas", "bias_tables"])
def test_decay_follows_what_was_declared_and_the_switches(switch):
    config = base.get_config().optimizer
    before = jax.tree.map(lambda leaf: treatment(leaf, config).decays, _declared())
    assert before == jax.tree.map(lambda leaf: leaf.decay is not False, _declared())
    config[f"decay_{switch}"] = False
    after = jax.tree.map(lambda leaf: treatment(leaf, config).decays, _declared())
    assert after == jax.tree.map(lambda leaf: leaf.decay not in (False, switch), _declared())


def _all_models():
    """A small model of every kind of backbone and head, and of every method."""
    for backbone in ("swin_test", "pvt_test", "pvt_v2_test", "vit_test"):
        yield create_model(backbone, create_tasks("semseg+depth", dataset="scenes"), 32, abstract=True)
    with two_stages() as backbone:
        for name in method_names():
            model = create_model(backbone, create_tasks("semseg+depth", dataset="scenes"), 32, widths=(4, 4))
            wrap(model, method_class(name)())
            yield model


def test_every_parameter_of_the_package_declares_its_decay_and_group():
    """By the layer or adapter that makes it; the rule by rank is for modules of a user's own."""
    groups = set()
    for model in _all_models():
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
            assert variable.get_metadata().get("decay") in (True, False, "thetas", "bias_tables"), path
        for path, declared in flatten(split_state(model).declared).items():
            part = "adapters" if "/adapter/" in path else "pretrained" if path.startswith("backbone/") else "decoders"
            assert declared.group == part, path
            vector = path.endswith(("/bias", "/scale")) or "scale_" in path
            assert declared.decay is not True or not vector, path
            groups.add(part)
    assert groups == {"adapters", "pretrained", "decoders"}


def test_one_function_decides_learning_rate_and_decay():
    """No other file of the package reads a declaration."""
    package = pathlib.Path(ditask_jax.__file__).parent
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("declared.decay", "declared.group")
    }
    assert readers == {"training/optim/optimizer.py"}
    assert "`treatment`" in (package.parent / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_switches_reach_the_update():
    config = base.get_config().optimizer
    config.decay_thetas = False
    params, declared = {"theta": jnp.ones(3)}, _declared(theta="thetas")
    zero = jax.tree.map(jnp.zeros_like, params)
    transform = make_optimizer(config, lambda step: 1.0, declared)
    assert float(jnp.abs(transform.update(zero, transform.init(params), params)[0]["theta"]).max()) == 0.0
    config.decay_thetas = True
    transform = make_optimizer(config, lambda step: 1.0, declared)
    np.testing.assert_allclose(transform.update(zero, transform.init(params), params)[0]["theta"], -0.05, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_groups_have_learning_rates_of_their_own(name):
    """A factor of 30 on the adapters moves them 30 times as far, decay included, and nothing else."""
    config = base.get_config().optimizer
    config.name = name
    params = {"theta": jnp.ones(3), "kernel": jnp.ones((2, 2))}
    declared = {"theta": Declared("thetas", "adapters"), "kernel": Declared(True, "decoders")}
    gradient = jax.tree.map(lambda x: 0.1 * x, params)

    def update():
        transform = make_optimizer(config, lambda step: RATE, declared)
        return transform.update(gradient, transform.init(params), params)[0]

    plain = update()
    config.rates = {"adapters": 30.0}
    factored = update()
    np.testing.assert_allclose(factored["theta"], 30 * plain["theta"], rtol=1e-6)
    np.testing.assert_array_equal(factored["kernel"], plain["kernel"])


def test_schedule_is_read_at_the_number_of_updates_done():
    config = base.get_config().optimizer
    config.weight_decay, config.name = 0.0, "sgd"
    config.betas = (0.0, 0.999)
    params = {"kernel": jnp.ones((1, 1))}
    transform = make_optimizer(config, lambda step: step + 1.0, _declared(kernel=True))
    state = transform.init(params)
    for expected in (-1.0, -2.0, -3.0):
        updates, state = transform.update({"kernel": jnp.ones((1, 1))}, state, params)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


def test_state_is_arrays_only_and_clip_can_be_switched_off():
    config = base.get_config().optimizer
    config.clip_norm = None
    state = make_optimizer(config, lambda step: RATE, _declared()).init(_params())
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
        make_optimizer(config, lambda step: RATE, _declared())
