"""Hooks of methods in the training step: FAAR's penalty, importances and shrinking ranks, of a layer and trained."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ditask_jax.adapters import FAAR, LoRA
from ditask_jax.adapters.plan import Site
from ditask_jax.config import load_config
from ditask_jax.nn import LayerInfo, Linear, Scope, flatten, split_state, unflatten
from ditask_jax.training.optim.method_hooks import method_hooks
from ditask_jax.training.optim.optimizer import clip_by_global_norm
from ditask_jax.training.trainer import Trainer
from tests.training.small import OPTIONS, two_stages

IN, OUT, RANK, STEPS = 5, 4, 6, 3
CLIP = 0.7


class One(nnx.Module):
    """A model of one dense layer."""

    def __init__(self, method):
        info = LayerInfo("layer", "fc1", 1, 0, 0, False, False, 1)
        self.layer = Linear(IN, OUT, Scope(), info)
        plan = method.plan_layer(Site(info, (IN, OUT), (), 1, 1, 1, True))
        self.layer.adapter = method.attach(self.layer, plan, None, 0)


def made(method=None):
    """The model taken apart, with every trainable number moved, and its hooks."""
    parts = split_state(One(method or FAAR(rank=RANK, share=0.9, penalty=0.01)))
    rng = np.random.default_rng(0)
    moved = {p: np.asarray(x) + rng.standard_normal(x.shape).astype("f4") for p, x in flatten(parts.trainable).items()}
    trainable = jax.tree.map(jnp.asarray, unflatten(moved, parts.trainable))
    return parts, trainable, method_hooks(parts, STEPS, clip_by_global_norm(CLIP))


def array(tree, name: str) -> np.ndarray:
    return np.asarray(flatten(tree)[f"layer/adapter/{name}"])


def test_a_method_without_hooks_leaves_the_step_as_it_is():
    parts = split_state(One(LoRA()))
    assert method_hooks(parts, STEPS) is None


def test_the_penalty_is_added_with_its_gradient():
    parts, trainable, hooks = made()
    zeros = jax.tree.map(jnp.zeros_like, trainable)
    total, found = jax.jit(hooks.penalised)(jnp.float32(2), zeros, trainable, parts.frozen, parts.stats)
    kernel = np.asarray(trainable["layer"]["kernel"], np.float64)
    ratio = np.exp(0.1 * (array(trainable, "magnitude_shared") - np.log(np.linalg.norm(kernel, axis=0))))
    assert float(total) == pytest.approx(2 + 0.01 * np.mean((ratio - 1) ** 2), rel=1e-5)
    slope = 0.01 * 2 * (ratio - 1) * ratio * 0.1 / OUT
    np.testing.assert_allclose(array(found, "magnitude_shared"), slope, rtol=1e-4)
    assert not np.any(array(found, "a_shared"))


def test_importances_are_averages_behind_clipping():
    """Two steps: NaN counts as nothing, and what is far beyond the median of the drawn ranks is cut."""
    parts, trainable, hooks = made()
    stats, expected, observed = parts.stats, np.zeros(RANK), jax.jit(hooks.observed)
    a, b = array(trainable, "a_shared"), array(trainable, "b_shared")
    for step in range(2):
        rng = np.random.default_rng(step + 1)
        flat = {path: rng.standard_normal(x.shape).astype("f4") for path, x in flatten(trainable).items()}
        flat["layer/adapter/b_shared"][4:] = flat["layer/adapter/a_shared"][:, 4:] = 0  # not drawn
        flat["layer/adapter/a_shared"][:, 0] *= 1e4
        gradients = unflatten(flat, trainable)
        norm = np.sqrt(sum((np.float64(x) ** 2).sum() for x in flat.values()))
        one = np.abs((a * flat["layer/adapter/a_shared"]).sum(0)) + np.abs((b * flat["layer/adapter/b_shared"]).sum(1))
        one = one / 2 * CLIP / norm
        expected = 0.98 * expected + 0.02 * np.minimum(one, 100 * np.median(one[:4]))
        stats, told = observed(gradients, trainable, parts.frozen, stats)
    np.testing.assert_allclose(array(stats, "importance_shared"), expected, rtol=1e-4)
    assert {name: float(value) for name, value in told.items()} == {"rank": RANK}
    broken = unflatten({path: np.full(x.shape, np.nan, "f4") for path, x in flatten(trainable).items()}, trainable)
    kept, _ = observed(broken, trainable, parts.frozen, stats)
    np.testing.assert_allclose(array(kept, "importance_shared"), 0.98 * expected, rtol=1e-4)


def with_importance(stats, values):
    flat = flatten(stats)
    flat["layer/adapter/importance_shared"] = jnp.asarray(values, jnp.float32)
    return unflatten(flat, stats)


def test_an_epoch_s_end_sorts_ranks_and_moments_alike_and_zeroes_the_tail():
    parts, trainable, hooks = made()
    optimizer = optax.chain(clip_by_global_norm(1.0), optax.adamw(0.1))
    rng = np.random.default_rng(5)
    state = jax.tree.map(
        lambda x: jnp.asarray(rng.random(x.shape), x.dtype) if x.ndim else x, optimizer.init(trainable)
    )
    importance = [1.0, 50.0, 0.0, 40.0, 2.0, 7.0]  # 97 of 100 are 90 % of it and more
    stats = with_importance(parts.stats, importance)
    ended = jax.jit(hooks.behind)
    same = ended(jnp.int32(STEPS), trainable, state, stats, parts.frozen)
    assert all(map(np.array_equal, jax.tree.leaves(same), jax.tree.leaves((trainable, state, stats))))
    got, moments, after = ended(jnp.int32(2 * STEPS - 1), trainable, state, stats, parts.frozen)
    order, cap = [1, 3, 5, 4, 0, 2], 3
    assert float(array(after, "cap_shared")) == cap
    np.testing.assert_array_equal(array(after, "importance_shared"), [50, 40, 7, 0, 0, 0])
    before_adam, after_adam = state[1][0], moments[1][0]
    assert after_adam.count == before_adam.count
    for old, new in ((trainable, got), (before_adam.mu, after_adam.mu), (before_adam.nu, after_adam.nu)):
        kept = np.arange(RANK) < cap
        np.testing.assert_array_equal(array(new, "a_shared"), array(old, "a_shared")[:, order] * kept)
        np.testing.assert_array_equal(array(new, "b_shared"), array(old, "b_shared")[order] * kept[:, None])
        np.testing.assert_array_equal(array(new, "magnitude_shared"), array(old, "magnitude_shared"))
        np.testing.assert_array_equal(new["layer"]["kernel"], old["layer"]["kernel"])
    # A later epoch never gives ranks back, and nothing is lost where no gradient has come yet.
    later = with_importance(after, np.ones(RANK))
    assert float(array(ended(jnp.int32(STEPS - 1), got, moments, later, parts.frozen)[2], "cap_shared")) == cap
    fresh = ended(jnp.int32(STEPS - 1), trainable, state, parts.stats, parts.frozen)[2]
    assert float(array(fresh, "cap_shared")) == RANK


TRAINING = (
    *OPTIONS,
    "method.name=faar",
    "method.rank=4",
    "method.share=0.3",
    "head.name=tspd",
    "tasks=semseg+depth",
    "data.train_examples=4",
    "data.eval_examples=2",
    "batch_size=2",
    "eval_batch_size=2",
    "image_size=64",
    "total_steps=5",
    "mesh.data=1",
)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("mesh.data=2",), ("optimizer.surgery=pcgrad",), ("optimizer.name=sgd",)])
def test_ranks_shrink_in_training_and_a_resumed_run_is_the_straight_one(tmp_path, more):
    """Epochs of two steps: caps fall after the second and the fourth one; a checkpoint lies between."""
    with two_stages():
        config = load_config("configs/smoke.py", [*TRAINING, *more, "checkpoint_every_steps=3"])
        straight = Trainer(config)
        straight.fit(tmp_path / "straight")
        caps = {p: float(x) for p, x in flatten(straight.state[2]).items() if "/adapter/cap_" in p}
        assert caps
        assert all(2 <= cap <= 4 for cap in caps.values())
        assert min(caps.values()) < 4
        flat = flatten(straight.state[0])
        for path, cap in caps.items():
            start, _, stream = path.rpartition("cap_")
            assert not np.any(np.asarray(flat[f"{start}a_{stream}"])[:, int(cap) :])
            assert not np.any(np.asarray(flat[f"{start}b_{stream}"])[int(cap) :])
        shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "5")
        resumed = Trainer(config)
        resumed.fit(tmp_path / "resumed")
        for mine, theirs in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(straight.state), strict=True):
            np.testing.assert_array_equal(mine, theirs)
