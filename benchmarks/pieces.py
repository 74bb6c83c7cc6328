"""Parts of a Swin's step timed on their own: stages, attention, MLP, merging and heads, forward and backward.

Each is a program of its own over inputs of the shapes it has in the step, with the gradient towards its input and what
trains in it. What XLA fuses across their borders, and runs side by side, is lost here, so the parts add up to more than
a step; their shares are what they are for.
"""

from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.ours import Ours
from ditask_jax import model
from ditask_jax.backbones.swin import Swin
from ditask_jax.heads import neck
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, prepare_adapters
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.nn.state import ModelState, split_state
from ditask_jax.tasks import multi_task_loss


def stage_pieces(ours: Ours) -> dict[str, tuple[Callable, tuple]]:
    """By name (`stage 0`, ..., `attention, all blocks` ...) a gradient and its arguments; {} unless a Swin."""
    body = ours.model.backbone
    if not isinstance(body, Swin):
        return {}
    batch, key, dtype = ours.config.batch_size, ours.key, ours.dtype
    context_of = lambda module: prepare_adapters(module, Context(train=True, key=key, dtype=dtype))
    trunks = []
    for stage, module in enumerate(body.stages):
        height, width = module.blocks[0].attn.grid
        trunks.append(jnp.ones((1, batch, height, width, body.config.embed_dim * 2**stage), dtype))
    found = {}

    def piece(module: nnx.Module, x: jax.Array, compute: Callable) -> tuple[Callable, tuple]:
        parts: ModelState = split_state(module)

        def total(trainable, x, frozen, stats):
            rebuilt = parts.merge(trainable, frozen, stats)
            outputs = jax.tree.leaves(compute(rebuilt, x, context_of(rebuilt)))
            return sum(jnp.sum(jnp.sin(value)) for value in outputs)

        return jax.grad(total, argnums=(0, 1)), (parts.trainable, x, parts.frozen, parts.stats)

    def whole(module, x, context):
        x, streams = module(x, (SHARED,), context)
        return module.merging(x, streams, context) if hasattr(module, "merging") else x

    for stage, (module, x) in enumerate(zip(body.stages, trunks, strict=True)):
        found[f"stage {stage}"] = piece(module, x, whole)

    def each_block(part: str) -> tuple[Callable, tuple]:
        """The same part of every block of every stage, one after another."""
        blocks = [(block, trunks[stage]) for stage, module in enumerate(body.stages) for block in module.blocks]
        holder = nnx.List([getattr(block, part) for block, _ in blocks])
        inputs = []
        for block, x in blocks:
            streams = block.attn.proj.streams_out((SHARED,)) if part == "mlp" else (SHARED,)
            inputs.append((jnp.broadcast_to(x, (len(streams), *x.shape[1:])), streams))

        def compute(modules, arrays, context):
            pairs = zip(modules, arrays, inputs, strict=True)
            return [module(x, streams, context)[0] for module, x, (_, streams) in pairs]

        return piece(nnx.Dict(all=holder), [x for x, _ in inputs], lambda m, xs, c: compute(m["all"], xs, c))

    found["attention, all blocks"] = each_block("attn")
    found["mlp, all blocks"] = each_block("mlp")
    found["necks, heads and losses"] = heads, arguments = _heads(ours)
    found["resizing alone"] = _resizing(heads, arguments)
    return found


def _heads(ours: Ours) -> tuple[Callable, tuple]:
    """Necks, heads, resizing and losses from random features."""
    whole, parts, batch = ours.model, ours.parts, ours.batch
    context = Context(train=True, key=ours.key, dtype=ours.dtype)
    shapes = jax.eval_shape(lambda images: whole.features(whole.normalise(images), context), batch["image"])
    filled = lambda tap, index: jnp.ones(tap.shape, tap.dtype) * (1 + index)
    features = {name: [filled(tap, index) for tap in taps] for index, (name, taps) in enumerate(shapes.items())}
    values = {name: value for name, value in parts.trainable.items() if name in ("necks", "heads")}

    def total(values, features, frozen, stats, batch):
        rebuilt = parts.merge(parts.trainable | values, frozen, stats)
        logits = rebuilt.decode(features, batch["image"].shape[1:3], context)
        return multi_task_loss(ours.tasks, logits, batch["labels"], batch["valid"])[0]

    return jax.grad(total, argnums=(0, 1)), (values, features, parts.frozen, parts.stats, batch)


def _resizing(function: Callable, arguments: tuple) -> tuple[Callable, tuple]:
    """Every bilinear resizing that a function calls for, forward and backward, from inputs and gradients of ones."""
    asked = []

    def noted(x: jax.Array, size: tuple[int, int]) -> jax.Array:
        asked.append((x.shape, x.dtype, size))
        return resize_bilinear(x, size)

    with mock.patch.object(neck, "resize_bilinear", noted), mock.patch.object(model, "resize_bilinear", noted):
        jax.eval_shape(function, *arguments)

    def both(inputs, gradients):
        resized = lambda xs: [resize_bilinear(x, size) for x, (_, _, size) in zip(xs, asked, strict=True)]
        outputs, pull = jax.vjp(resized, inputs)
        return outputs, pull(gradients)

    inputs = [jnp.ones(shape, dtype) for shape, dtype, _ in asked]
    gradients = [jnp.ones((*shape[:-3], *size, shape[-1]), dtype) for shape, dtype, size in asked]
    return both, (inputs, gradients)
