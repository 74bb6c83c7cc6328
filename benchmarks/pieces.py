"""Parts of a Swin's step timed on their own: stages, attention, MLP, merging and heads, forward and backward.

Each is a program of its own over inputs of the shapes it has in the step, with the gradient towards its input and what
trains in it. What XLA fuses across their borders, and runs side by side, is lost here, so the parts add up to more than
a step; their shares are what they are for.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.ours import Ours
from ditask_jax.backbones.swin import Swin
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, prepare_adapters
from ditask_jax.nn.state import ModelState, split_state


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
        trunks.append(jnp.ones((1, batch, height, width, body.config.embed_dim * 2**stage)))
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
    found["necks, heads and losses"] = _heads(ours)
    return found


def _heads(ours: Ours) -> tuple[Callable, tuple]:
    """Necks, heads, resizing and losses from random features."""
    from ditask_jax.tasks.base import multi_task_loss

    model, tasks, batch = ours.model, tuple(ours.tasks), ours.batch
    taps = jax.eval_shape(
        lambda images: [
            x for x, _ in model.backbone(model.normalise(images), prepare_adapters(model.backbone, _plain(ours)))
        ],
        batch["image"],
    )
    pick = lambda tap, index: jnp.ones(tap.shape[1:], tap.dtype) * (1 + index)
    features = {task.name: [pick(tap, index) for tap in taps] for index, task in enumerate(tasks)}
    modules = nnx.Dict(necks=model.necks, heads=model.heads)
    parts = split_state(modules)

    def total(trainable, features, frozen, stats, labels):
        rebuilt = parts.merge(trainable, frozen, stats)
        context, size, logits = Context(train=True, key=ours.key, dtype=ours.dtype), batch["image"].shape[1:3], {}
        from ditask_jax.nn.resize import resize_bilinear

        for task in tasks:
            maps = features[task.name]
            maps = rebuilt["necks"][task.name](maps, context) if task.name in rebuilt["necks"] else maps
            found = rebuilt["heads"][task.name](maps, context)
            logits[task.name] = resize_bilinear(found, size) if model.is_map else found
        return multi_task_loss(tasks, logits, labels, batch["valid"])[0]

    return jax.grad(total, argnums=(0, 1)), (parts.trainable, features, parts.frozen, parts.stats, batch["labels"])


def _plain(ours: Ours) -> Context:
    return Context(train=True, key=ours.key, dtype=ours.dtype)
