"""Multiply-adds that a training step needs, counted from the model: the floor that its time is held against.

Counted are products only: dense layers by the plan's own rule (the cheaper of two ways, see
`ditask_jax.adapters.execution`), patch embedding, attention, patch merging, necks and heads, resizing. Norms,
activations, softmax, losses and the optimiser are free here, and so is everything that is computed twice.
"""

import math
from collections.abc import Mapping, Sequence

from ditask_jax.adapters.execution import choose_execution, multiply_adds
from ditask_jax.adapters.plan import Plan
from ditask_jax.heads.neck import convolves_first
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.linear import SHARED, Linear, linears


def streams_by_layer(model: MultiTaskModel, plan: Plan) -> dict[str, tuple[int, int]]:
    """Streams that enter and leave every dense layer, by path, following them from block to block."""
    leaving = {layer.info.path: layer.streams for layer in plan.layers}
    found, now, stage = {}, (SHARED,), 0
    for layer in linears(model.backbone):
        if layer.info.stage != stage:
            now, stage = (SHARED,), layer.info.stage
        out = leaving.get(layer.info.path) or now
        found[layer.info.path] = len(now), len(out)
        now = out
    return found


def dense_layer(layer: Linear, plan: Plan, streams: tuple[int, int], examples: int, trains: bool) -> float:
    """Multiply-adds of one dense layer, forward and backward."""
    shape, parts, rows = (layer.inputs, layer.outputs), layer.info.parts, layer.info.tokens * examples
    adapted = next((entry for entry in plan.layers if entry.info.path == layer.info.path), None)
    entering, leaving = streams
    if adapted is not None and adapted.execution in ("factored", "materialised"):
        rank = min(shape[0], shape[1] // parts)
        arguments = shape, parts, rank, entering, leaving, rows
        return multiply_adds(choose_execution("auto", *arguments), *arguments)
    inner = sum(math.prod(s) for s in adapted.parameters.values()) if adapted is not None else 0
    plain = rows * leaving * shape[0] * shape[1] * (3 if trains else 2)
    return plain + 3 * rows * leaving * inner


def attention(layers: Sequence[Linear], length: Mapping[str, int], examples: int) -> float:
    """Multiply-adds of the two products of attention, forward and backward, over all blocks.

    Args:
      layers: the dense layers; every `qkv` stands for a block.
      length: tokens that a token looks at, by the layer's path.
      examples: images per step.
    """
    blocks = [layer for layer in layers if layer.info.role == "qkv"]
    # Two products forward, and two for each of them backward.
    return sum(6.0 * l.info.tokens * examples * length[l.info.path] * (l.outputs // 3) for l in blocks)


def heads(model: MultiTaskModel, image_size: tuple[int, int], examples: int) -> float:
    """Multiply-adds of necks, heads and resizing, forward and backward."""
    sides = [tuple(map(int, tap)) for tap in _tap_sizes(model, image_size)]
    total = 0.0
    for name in model.task_names:
        head, positions = model.heads[name], math.prod(sides[0])
        if not hasattr(head, "widen"):
            total += 3 * math.prod(head.classify.kernel.shape)
            continue
        hidden, outputs = head.classify.kernel.shape
        total += 3 * positions * hidden * outputs
        # Bilinear: four reads for each value, forward and backward. Maps convolved before they are resized are summed
        # by size first.
        resized = outputs * math.prod(image_size)
        late = set()
        for conv, side in zip(model.necks[name].convs, sides, strict=True):
            channels, width = conv.kernel.shape
            total += 3 * math.prod(side) * channels * width
            if convolves_first((*side, width), sides[0]):
                late.add(side)
                total += 3 * math.prod(side) * width * hidden
            else:
                total += 3 * positions * width * hidden
                resized += positions * width * (side != sides[0])
        total += 8 * (resized + positions * hidden * len(late))
    return total * examples


def _tap_sizes(model: MultiTaskModel, image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Grids of the taps of a Swin: behind patch merging, so that the last two are equal."""
    config = model.backbone.config
    last = len(config.depths) - 1
    scale = lambda stage: config.patch * 2 ** min(stage + 1, last)
    return [(image_size[0] // scale(stage), image_size[1] // scale(stage)) for stage in range(len(config.depths))]


def needed(model: MultiTaskModel, plan: Plan, method, image_size: tuple[int, int], examples: int) -> dict[str, float]:
    """Floating-point operations of a training step of a Swin by part, two for each multiply-add.

    Args:
      model: without adapters; shapes suffice.
      plan: what the method attaches.
      method: says what else trains.
      image_size: (height, width).
      examples: images per step.

    Returns:
      `dense`, `merging`, `attention`, `patch_embed`, `heads`, and `total`.
    """
    layers = list(linears(model.backbone))
    streams = streams_by_layer(model, plan)
    trains = lambda layer: method.trains(f"{layer.info.path}/kernel")
    cost = lambda layer: dense_layer(layer, plan, streams[layer.info.path], examples, trains(layer))
    windows = {
        f"{block.attn.qkv.info.path}": math.prod(block.attn.window)
        for stage in model.backbone.stages
        for block in stage.blocks
    }
    patch, positions = model.backbone.patch_embed.kernel.shape, layers[0].info.tokens
    found = {
        "dense": sum(cost(layer) for layer in layers if layer.info.role != "reduction"),
        "merging": sum(cost(layer) for layer in layers if layer.info.role == "reduction"),
        "attention": attention(layers, windows, examples),
        "patch_embed": 2.0 * positions * examples * math.prod(patch),
        "heads": heads(model, image_size, examples),
    }
    found = {name: 2.0 * count for name, count in found.items()}
    return found | {"total": sum(found.values())}
