"""Losses against their formulas in float64 loops, and what must hold for every task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ditask_jax.tasks import SurfaceNormals, multi_task_loss

from .examples import ALL_TASKS, ignored_label, loss_of, random_label, random_logits, value_and_gradient_of

SHAPE = (3, 5, 7)


def softplus(z: float) -> float:
    return max(z, 0.0) + np.log1p(np.exp(-abs(z)))


def loss_by_hand(task, logits, label, valid) -> float:
    """Every loss by its formula, pixel by pixel."""
    logits, label = logits.astype(np.float64), label.astype(np.float64)
    pixels = [index for index in np.ndindex(*logits.shape[:3]) if valid[index[0]]]
    if task.name in ("semseg", "human_parts"):
        terms = [
            np.log(np.sum(np.exp(logits[i] - logits[i].max()))) + logits[i].max() - logits[i][int(label[i])]
            for i in pixels
            if label[i] != 255
        ]
    elif task.name in ("sal", "edge"):
        positives = sum(label[i] == 1 for i in pixels)
        weight = 0.95 if task.name == "edge" else (len(pixels) - positives) / len(pixels)
        terms = [
            weight * softplus(-logits[i][0]) if label[i] == 1 else (1 - weight) * softplus(logits[i][0]) for i in pixels
        ]
    elif task.name == "normals":
        terms = []
        for i in pixels:
            unit = logits[i] / (np.sqrt((logits[i] ** 2).sum()) + 1e-12)
            terms += [abs(unit[c] - label[i][c]) for c in range(3) if label[i][c] != 255]
    else:
        terms = [abs(logits[i][0] - label[i]) for i in pixels if label[i] != 255]
    return float(np.mean(terms))


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("valid", [(True, True, True), (True, False, True)], ids=["full", "padded"])
def test_loss_follows_the_formula(task, valid):
    random = np.random.default_rng(0)
    logits, label = random_logits(task, random, SHAPE), random_label(task, random, SHAPE)
    expected = loss_by_hand(task, logits, label, valid)
    got = loss_of(task)(logits, label, np.array(valid))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-6)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_gradient_agrees_with_finite_differences(task):
    random = np.random.default_rng(1)
    logits, label = random_logits(task, random, SHAPE).astype(np.float64), random_label(task, random, SHAPE)
    _, gradient = value_and_gradient_of(task)(logits.astype(np.float32), label)
    direction = random.normal(size=logits.shape)
    step = 1e-6
    valid = (True, True, True)
    slope = (
        loss_by_hand(task, logits + step * direction, label, valid)
        - loss_by_hand(task, logits - step * direction, label, valid)
    ) / (2 * step)
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("cause", ["ignored", "padding"])
def test_nothing_valid_means_zero_loss_and_gradient(task, cause):
    random = np.random.default_rng(2)
    logits = random_logits(task, random, SHAPE)
    label = ignored_label(task, SHAPE) if cause == "ignored" else random_label(task, random, SHAPE)
    valid = np.full(3, cause != "padding")
    value, gradient = value_and_gradient_of(task)(logits, label, valid)
    assert float(value) == 0.0
    assert not np.any(np.asarray(gradient))


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("scale", [1e4, -1e4, 1e-30, 0.0])
def test_loss_and_gradient_are_finite_for_extreme_logits(task, scale):
    random = np.random.default_rng(3)
    logits = np.sign(random_logits(task, random, SHAPE)).astype(np.float32) * np.float32(scale)
    value, gradient = value_and_gradient_of(task)(logits, random_label(task, random, SHAPE))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_zero_normal_has_no_gradient_and_leaves_the_others_alone():
    task = SurfaceNormals()
    random = np.random.default_rng(4)
    logits, label = random_logits(task, random, SHAPE), random_label(task, random, SHAPE)
    label[label == 255] = 0.5
    gradient = np.asarray(value_and_gradient_of(task)(logits, label)[1])
    logits[0, 0, 0] = 0
    with_zero = np.asarray(value_and_gradient_of(task)(logits, label)[1])
    assert not np.any(with_zero[0, 0, 0])
    np.testing.assert_array_equal(with_zero[0, 1], gradient[0, 1])


def test_saliency_weight_counts_the_whole_batch():
    task = ALL_TASKS[2]
    label = np.zeros((2, 2, 2), np.uint8)
    label[0] = 1  # per image every pixel would weigh zero; over the batch half of them are positive
    np.testing.assert_allclose(loss_of(task)(jnp.zeros((2, 2, 2, 1)), label), 0.5 * np.log(2), rtol=1e-6)
    assert float(loss_of(task)(jnp.zeros((1, 2, 2, 1)), label[:1])) == 0.0


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_loss_is_over_the_global_batch(task):
    devices = jax.devices()
    random = np.random.default_rng(5)
    shape = (2 * len(devices), 4, 6)
    logits, label = random_logits(task, random, shape), random_label(task, random, shape)
    label[: shape[0] // 2] = ignored_label(task, (1, 4, 6))  # devices with very different numbers of labelled pixels
    valid = np.arange(shape[0]) != 3
    sharding = NamedSharding(jax.make_mesh((len(devices),), ("data",)), PartitionSpec("data"))
    spread = jax.device_put((logits, label, valid), sharding)
    np.testing.assert_allclose(loss_of(task)(*spread), loss_of(task)(logits, label, valid), rtol=1e-6)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_half_precision_logits_give_a_full_precision_loss(task):
    random = np.random.default_rng(6)
    logits, label = jnp.asarray(random_logits(task, random, SHAPE), jnp.bfloat16), random_label(task, random, SHAPE)
    loss = loss_of(task)(logits, label)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, loss_of(task)(logits.astype(jnp.float32), label), rtol=1e-6)


def test_total_is_the_weighted_sum():
    random = np.random.default_rng(7)
    logits = {task.name: jnp.asarray(random_logits(task, random, SHAPE)) for task in ALL_TASKS}
    labels = {task.name: random_label(task, random, SHAPE) for task in ALL_TASKS}
    total, losses = jax.jit(lambda *batch: multi_task_loss(ALL_TASKS, *batch))(logits, labels)
    weights = {"semseg": 1, "human_parts": 2, "sal": 5, "normals": 10, "depth": 1, "edge": 50}
    np.testing.assert_allclose(total, sum(weights[name] * float(loss) for name, loss in losses.items()), rtol=1e-6)
