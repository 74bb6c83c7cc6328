"""PCGrad: where the gradients of two tasks conflict, each loses what goes against the other.

It costs one forward pass and one backward pass per task in place of one for all (the forward pass's activations are
kept until the last), memory for every task's gradient of what trains, and a dot product for each pair. Frozen weights
have no gradients, so with a method that trains little this is little.

References: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, algorithm 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SURGERIES = ("none", "pcgrad")


def pcgrad(
    terms: Callable[[Any], tuple[jax.Array, Any]], trainable: Any, key: jax.Array
) -> tuple[jax.Array, Any, Any, dict[str, jax.Array]]:
    """The loss, what came with it, and the gradient behind the surgery.

    Args:
      terms: maps what trains to the weighted losses of the tasks `[T]`, and anything else.
      trainable: where.
      key: of the random orders of the tasks.

    Returns:
      The sum of the losses, the second output of `terms`, a tree like `trainable`, and metrics: `conflicts`, the share
      of pairs of tasks whose gradients point against each other.
    """
    losses, backward, aux = jax.vjp(terms, trainable, has_aux=True)
    # One task after another: side by side, the activations of all backward passes would be alive at once.
    each = jax.lax.map(lambda direction: backward(direction)[0], jnp.eye(losses.size, dtype=losses.dtype))
    gram = gram_matrix(each)
    weights = pcgrad_weights(gram, key)
    gradient = jax.tree.map(lambda g: jnp.tensordot(weights.astype(g.dtype), g, axes=1, precision="highest"), each)
    return losses.sum(), aux, gradient, {"conflicts": conflicts(gram)}


def gram_matrix(each: Any) -> jax.Array:
    """Dot products of the tasks' gradients over the whole tree, float32.

    Shapes: leaves `[T, ...]` to `[T, T]`.

    >>> gram_matrix({"a": jnp.array([[1.0, 0.0], [0.0, 2.0]]), "b": jnp.array([3.0, 1.0])}).tolist()
    [[10.0, 3.0], [3.0, 5.0]]
    """
    rows = [leaf.astype(jnp.float32).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(each)]
    return sum(jnp.matmul(row, row.T, precision="highest") for row in rows)


def pcgrad_weights(gram: jax.Array, key: jax.Array) -> jax.Array:
    """How much of each task's gradient the surgery's result holds.

    Each task's gradient, starting from the original one, is projected onto the normal plane of every other task's
    *original* gradient that it conflicts with (dot product below 0), one after another in random order; the results are
    added up. All of them are sums of the original gradients, so that their dot products are all it takes.

    Shapes: gram `[T, T]` to `[T]`.

    Args:
      gram: dot products of the original gradients.
      key: of the orders: a random one for each task.

    >>> pcgrad_weights(jnp.array([[1.0, -0.5], [-0.5, 1.0]]), jax.random.key(0)).tolist()
    [1.5, 1.5]
    >>> pcgrad_weights(jnp.array([[1.0, 0.5], [0.5, 1.0]]), jax.random.key(0)).tolist()
    [1.0, 1.0]
    """
    count = gram.shape[0]
    orders = projection_orders(count, key)
    squares = jnp.diagonal(gram)
    mixture = jnp.eye(count, dtype=gram.dtype)
    mine = jnp.arange(count)
    for place in range(count):
        other = orders[:, place]
        dots = jnp.einsum("im,mi->i", mixture, gram[:, other], precision="highest")
        against = (other != mine) & (dots < 0) & (squares[other] > 0)
        removed = jnp.where(against, dots / jnp.where(against, squares[other], 1), 0)
        mixture = mixture.at[mine, other].add(-removed)
    return mixture.sum(0)


def projection_orders(count: int, key: jax.Array) -> jax.Array:
    """For each task the order in which the tasks (itself among them, which changes nothing) are looked at: `[T, T]`."""
    keys = [jax.random.fold_in(key, task) for task in range(count)]
    return jnp.stack([jax.random.permutation(task_key, count) for task_key in keys])


def conflicts(gram: jax.Array) -> jax.Array:
    """The share of pairs of tasks whose gradients point against each other; 0 for a single task.

    >>> float(conflicts(jnp.array([[1.0, -1.0], [-1.0, 1.0]])))
    1.0
    """
    pairs = gram.shape[0] * (gram.shape[0] - 1)
    return jnp.sum(gram < 0) / max(pairs, 1)
