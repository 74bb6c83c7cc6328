"""PCGrad against brute force in float64, by itself and inside a training step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditask_jax.adapters import method_names
from ditask_jax.errors import ConfigError
from ditask_jax.nn import Context, flatten
from ditask_jax.nn.context import name_hash
from ditask_jax.tasks import create_tasks, multi_task_loss
from ditask_jax.training.optim.pcgrad import gram_matrix, pcgrad, pcgrad_weights, projection_orders
from ditask_jax.training.sharding import make_mesh
from ditask_jax.training.step import make_train_step
from tests.adapters.micro import IMAGES, SIZE, Micro, method_of


def brute_force(gradients: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Algorithm 1 on whole vectors, `[T, N]` to `[N]`, in float64."""
    gradients = gradients.astype(np.float64)
    total = np.zeros(gradients.shape[1])
    for task, order in enumerate(orders):
        mine = gradients[task].copy()
        for other in order:
            dot = mine @ gradients[other]
            if other != task and dot < 0:
                mine -= dot / (gradients[other] @ gradients[other]) * gradients[other]
        total += mine
    return total


# Compiled once per number of tasks.
surgery_weights = jax.jit(pcgrad_weights)
orders_of = jax.jit(projection_orders, static_argnums=0)


@given(count=st.sampled_from((1, 2, 4)), size=st.integers(1, 8), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_weights_are_those_of_brute_force(count, size, seed):
    gradients = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    key = jax.random.key(seed)
    orders = np.asarray(orders_of(count, key))
    assert all(sorted(order) == list(range(count)) for order in orders.tolist())
    with jax.enable_x64(True):
        weights = np.asarray(surgery_weights(jnp.asarray(gradients.astype(np.float64) @ gradients.T), key))
    expected = brute_force(gradients, orders)
    scale = np.abs(expected).max() + np.abs(weights).max() * np.abs(gradients).max()
    np.testing.assert_allclose(weights @ gradients, expected, atol=1e-6 * scale, rtol=0)


def test_a_task_without_gradient_changes_nothing_and_agreeing_tasks_add_up():
    key = jax.random.key(0)
    agreeing = gram_matrix(jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(surgery_weights(agreeing, key), [1, 1, 1])
    fighting = gram_matrix(jnp.array([[1.0, 0.0], [-1.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(surgery_weights(fighting, key), [2, 1.5, 1])


def test_orders_are_random_and_a_function_of_the_key():
    orders = [np.asarray(orders_of(5, jax.random.key(seed))).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(order) for order in orders[0]}) > 1


def test_the_whole_tree_counts():
    """Leaves that belong to one task take part: they lengthen its gradient and receive what is projected along it."""
    terms = lambda p: (jnp.stack([p["shared"] ** 2 + p["a"], -3 * p["shared"] + p["b"]]), "more")
    loss, aux, gradient, metrics = pcgrad(terms, {"shared": 1.0, "a": 0.0, "b": 0.0}, jax.random.key(0))
    first, second = np.array([2.0, 1.0, 0.0]), np.array([-3.0, 0.0, 1.0])
    expected = first + second + 6 / 10 * second + 6 / 5 * first
    np.testing.assert_allclose([gradient["shared"], gradient["a"], gradient["b"]], expected, rtol=1e-6)
    assert (float(loss), aux, float(metrics["conflicts"])) == (-2.0, "more", 1.0)


def _vector(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in flatten(tree).values()])


def check_a_training_step(method) -> float:
    """Plain gradient descent at rate 1 moves by exactly the gradient that brute force finds.

    Returns how far from it the plain sum of gradients is, in parts of its largest entry.
    """
    outputs, seed, number = {"semseg": 5, "depth": 1, "sal": 1}, 3, 7
    known = create_tasks(list(outputs), dataset="scenes")
    chosen = tuple(dataclasses.replace(task, num_outputs=outputs[task.name]) for task in known)
    micro = Micro(method, *outputs)
    rng = np.random.default_rng(0)
    labels = {
        "semseg": rng.integers(0, 5, (8, SIZE, SIZE)).astype(np.uint8),
        "depth": rng.uniform(1, 5, (8, SIZE, SIZE)).astype(np.float32),
        "sal": rng.integers(0, 2, (8, SIZE, SIZE)).astype(np.uint8),
    }
    batch = {"image": np.tile(IMAGES, (4, 1, 1, 1)) * 50, "labels": labels, "valid": np.ones(8, bool)}
    parts, trainable = micro.parts, micro.moved()

    def losses(values):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), name_hash("train")), number)
        logits = parts.merge(values, parts.frozen, parts.stats)(batch["image"], Context(train=True, key=key))
        found = multi_task_loss(chosen, logits, labels)[1]
        return jnp.stack([task.loss_weight * found[task.name] for task in chosen])

    jacobian = flatten(jax.jit(jax.jacrev(losses))(trainable))
    gradients = np.concatenate([np.asarray(leaf).reshape(len(outputs), -1) for leaf in jacobian.values()], axis=1)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), name_hash("surgery")), number)
    expected = brute_force(gradients, np.asarray(orders_of(len(outputs), key)))

    optimizer = optax.sgd(1.0)
    step = make_train_step(parts, chosen, optimizer, make_mesh(8), seed, surgery="pcgrad")
    copies = [jax.tree.map(jnp.array, (trainable, parts.stats)) for _ in range(2)]
    first, second = (step(t, optimizer.init(t), s, parts.frozen, batch, np.int32(number)) for t, s in copies)
    moved = _vector(trainable) - _vector(first[0])
    np.testing.assert_allclose(moved, expected, atol=5e-5 * np.abs(expected).max(), rtol=0)
    np.testing.assert_array_equal(_vector(first[0]), _vector(second[0]))
    np.testing.assert_allclose(first[3]["grad_norm"], np.linalg.norm(expected), rtol=1e-4)
    pairs = (gradients.astype(np.float64) @ gradients.T.astype(np.float64))[np.triu_indices(len(outputs), 1)]
    assert float(first[3]["conflicts"]) == pytest.approx(np.mean(pairs < 0))
    return np.abs(gradients.sum(0) - expected).max() / np.abs(expected).max()


@pytest.mark.slow  # by default test_collectives.py has the compiled step, and the tests above the weights
def test_a_training_step_takes_the_operated_gradient():
    # More layers of the same kind are only more to compile.
    few = "method.shared_layers=fc2", "method.task_layers=fc2"
    # The tasks do conflict here.
    assert check_a_training_step(method_of("mtlora", "method.dropout=0.1", *few)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", method_names())
def test_with_every_method(name):
    check_a_training_step(method_of(name))


def test_an_unknown_surgery_is_named():
    micro, chosen = Micro(method_of("norm"), "depth"), create_tasks("depth", dataset="scenes")
    with pytest.raises(ConfigError, match=r"optimizer.surgery: unknown name 'pcgrat'. Did you mean 'pcgrad'"):
        make_train_step(micro.parts, chosen, optax.sgd(1.0), make_mesh(1), 0, surgery="pcgrat")
