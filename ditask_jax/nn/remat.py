"""What the backward pass computes again instead of keeping it: less memory for more work, the same gradients."""

from collections.abc import Callable

import jax

from ditask_jax.nn.context import Context

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

    policy = jax.checkpoint_policies.dots_saveable if context.remat == "dots" else None
    return jax.checkpoint(compute, policy=policy)(x), names[-1]
