"""What the backward pass computes again instead of keeping it: less memory for more work, the same gradients."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ditask_jax.nn.context import Context
from ditask_jax.nn.custom_vjp import custom_vjp

REMAT = ("none", "dots", "blocks")
"""`none` keeps all activations; `dots` the results of matrix products, and computes norms, activations, softmax and
masks of a block again; `blocks` only what enters a block, and computes the block again."""


def rematerialised(block: Callable, x: jax.Array, streams: tuple[str, ...], context: Context):
    """Calls `block(x, streams, context) -> x, streams` under the policy of the context.

    >>> block = lambda x, streams, context: (x + 1, streams)
    >>> x, streams = rematerialised(block, jax.numpy.ones(1), ("shared",), Context(train=True, remat="blocks"))
    >>> x.tolist(), streams
    ([2.0], ('shared',))
    """
    if not context.train or context.remat == "none":
        return block(x, streams, context)
    names = []

    def compute(x):
        out, leaving = block(x, streams, context)
        names.append(leaving)
        return out

    if context.remat == "dots":
        return jax.checkpoint(compute, policy=jax.checkpoint_policies.dots_saveable)(x), names[-1]
    return _computed_twice(compute, x), names[-1]


def _computed_twice(compute: Callable, x: jax.Array) -> jax.Array:
    """`compute(x)`, computed again in the backward pass, and not before its gradient is there.

    `jax.checkpoint` asks for that order by a barrier, which XLA removes on CPUs before it merges equal expressions and
    orders what is left: nothing would be computed later there, and no memory saved. Here what is computed again starts
    from the kept input plus zero times the gradient, which no compiler may take for the input.
    """
    closed = jax.make_jaxpr(compute)(x)
    moving = [jnp.issubdtype(value.dtype, jnp.floating) for value in closed.consts]

    def run(x, floats, others):
        floats, others = iter(floats), iter(others)
        values = [next(floats) if moves else next(others) for moves in moving]
        return jax.core.eval_jaxpr(closed.jaxpr, values, x)[0]

    def backward(kept, gradient):
        x, floats, others = kept
        zero = (0 * gradient[(0,) * gradient.ndim]).astype(x.dtype)
        _, pull = jax.vjp(lambda x, floats: run(x, floats, others), x + zero.reshape((1,) * x.ndim), floats)
        return (*pull(gradient), None)

    def push(kept, tangents):
        over = lambda x, floats: run(x, floats, kept[2])
        return jax.jvp(over, kept[:2], tangents[:2])[1]

    twice = custom_vjp(lambda *arguments: (run(*arguments), arguments), backward, push)(run)
    pick = lambda wanted: [value for value, moves in zip(closed.consts, moving, strict=True) if moves == wanted]
    return twice(x, pick(True), pick(False))


def by_pieces(features: Callable, images: jax.Array, context: Context) -> list[tuple[jax.Array, tuple[str, ...]]]:
    """Calls `features(images, context) -> [(x, streams)]` on `context.pieces` pieces of the rows, one after another.

    For layers that couple no examples. Each piece is computed again in the backward pass.

    Args:
      features: gives arrays `[S, B, ...]` with the names of their streams.
      images: `[B, ...]`; `context.pieces` divides B.
      context: its `rows` are cut with the images, so that every example draws what it would in the whole batch.

    >>> double = lambda images, context: [(2 * images[None], ("shared",))]
    >>> [(x, streams)] = by_pieces(double, jnp.arange(4.0), Context(train=True, pieces=2))
    >>> x.tolist(), streams
    ([[0.0, 2.0, 4.0, 6.0]], ('shared',))
    """
    if context.pieces == 1:
        return features(images, context)
    names = []

    def compute(piece):
        found = features(piece[0], dataclasses.replace(context, rows=piece[1]))
        names[:] = [streams for _, streams in found]
        return [x for x, _ in found]

    rows = jnp.arange(images.shape[0], dtype=jnp.int32) if context.rows is None else context.rows
    found = jax.lax.map(jax.checkpoint(compute), split((images, rows), context.pieces))
    return list(zip([join(x, axis=1) for x in found], names, strict=True))


def split(tree: Any, pieces: int) -> Any:
    """Cuts rows into pieces.

    Shapes: leaves `[B, ...]` to `[pieces, B / pieces, ...]`.

    >>> split(jnp.arange(4), pieces=2).tolist()
    [[0, 1], [2, 3]]
    """
    return jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), tree)


def join(x: jax.Array, axis: int = 0) -> jax.Array:
    """The inverse of `split`, for results whose rows are at `axis` (counted without the axis of pieces).

    >>> join(split(jnp.arange(4), pieces=2)).tolist()
    [0, 1, 2, 3]
    """
    x = jnp.moveaxis(x, 0, axis)  # [..., pieces, rows, ...]
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
