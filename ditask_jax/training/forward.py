"""The forward pass of a training step: the whole batch at once, in pieces, or each device's rows on their own.

Every device takes its own rows through the model, a program that names no other device; what has to cross is written
out. Gradients of what trains are summed over the devices once, in the dtype of the parameters (float32), after each
device has carried its kernels' gradients to thetas. Frozen weights that are spread are gathered once. BatchNorm adds up
its statistics. Nothing else crosses: the compiler has no choice to make (`ditask_jax.training.devices`).

Losses and batch statistics couple the examples of a batch. Three ways through the model keep or cut that coupling:

* *whole*: BatchNorm and losses see the whole batch.
* *in pieces* (`optimizer.accumulate`): the backbone, whose layers couple no examples, takes a device's rows piece by
  piece and is computed again in the backward pass, so that the activations of one piece are alive at a time; the heads
  take the joined features. BatchNorm and losses thus see the whole batch, and loss, gradients and statistics are those
  of the whole batch to rounding.
* *per shard* (`mesh.statistics=per_shard`): every device normalises and averages over its own rows, and the devices'
  losses, gradients and running statistics are averaged: what distributed data parallelism without synchronised
  BatchNorm does. With `accumulate`, so does every piece, one after another, the running statistics moving with each.

Dropout and drop path draw the same in all three: a draw belongs to an example's place in the whole batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import prepare_adapters
from ditask_jax.nn.state import ModelState, statistics
from ditask_jax.tasks.base import Task, multi_task_loss
from ditask_jax.training.devices import on_each_device


@dataclasses.dataclass(frozen=True)
class Passage:
    """How a batch goes through the model.

    Attributes:
      accumulate: pieces that the batch is cut into.
      per_shard: whether every device's rows are normalised and averaged on their own.
      remat: see `ditask_jax.nn.remat`.
    """

    accumulate: int = 1
    per_shard: bool = False
    remat: str = "none"


def passage_of(config: ConfigDict) -> Passage:
    """The passage that a configuration asks for."""
    return Passage(config.optimizer.accumulate, config.mesh.statistics == "per_shard", config.remat)


def make_forward(
    parts: ModelState, tasks: Sequence[Task], dtype, mesh: Mesh | None = None, passage: Passage | None = None
) -> Callable:
    """`forward(trainable, frozen, stats, batch, key) -> total, losses by task, new statistics` in training mode.

    Args:
      parts: the wrapped model taken apart.
      tasks: the tasks, in the model's order.
      dtype: of the matrix products.
      mesh: over which the batch is spread; None: wherever the arguments are, one device as a rule.
      passage: None: the whole batch at once.
    """
    passage = passage or Passage()
    tasks = tuple(tasks)
    context_of = lambda key, place: Context(
        train=True, key=key, dtype=dtype, rows=place.rows, remat=passage.remat, batch_axes=place.axes
    )

    def whole(trainable, frozen, stats, key, batch, place):
        model = parts.merge(trainable, frozen, stats)
        logits = model(batch["image"], context_of(key, place))
        return logits, statistics(model)

    def in_pieces(trainable, frozen, stats, key, batch, place):
        model = parts.merge(trainable, frozen, stats)
        context = context_of(key, place)
        prepared = prepare_adapters(model.backbone, context)
        names = []

        def taps_of(piece):
            found = model.backbone(model.normalise(piece["image"]), dataclasses.replace(prepared, rows=piece["rows"]))
            names[:] = [streams for _, streams in found]
            return [x for x, _ in found]

        pieces = split({"image": batch["image"], "rows": place.rows_of(batch)}, passage.accumulate)
        taps = jax.lax.map(jax.checkpoint(taps_of), pieces)
        features = model.pick(list(zip([join(x, axis=1) for x in taps], names, strict=True)))
        logits = model.decode(features, batch["image"].shape[1:3], context)
        return logits, statistics(model)

    def per_shard(trainable, frozen, stats, key, batch, place):
        def piece_of(stats, piece):
            here = dataclasses.replace(place, rows=piece.pop("rows"), axes=())
            logits, stats = whole(trainable, frozen, stats, key, piece, here)
            return stats, multi_task_loss(tasks, logits, piece["labels"], piece["valid"])

        batch = batch | {"rows": place.rows_of(batch)}
        if passage.accumulate == 1:
            stats, found = piece_of(stats, batch)
        else:
            stats, found = jax.lax.scan(jax.checkpoint(piece_of), stats, split(batch, passage.accumulate))
            found = jax.tree.map(lambda x: x.mean(0), found)
        return jax.tree.map(lambda x: x[None], found), place.mean(stats)

    if passage.per_shard:
        average = on_each_device(parts, mesh, per_shard)

        def forward(trainable, frozen, stats, batch, key):
            found, stats = average(trainable, frozen, stats, key, batch)
            total, losses = jax.tree.map(lambda x: x.mean(0), found)
            return total, losses, stats

        return forward

    logits_of = on_each_device(parts, mesh, whole if passage.accumulate == 1 else in_pieces)

    def forward(trainable, frozen, stats, batch, key):
        logits, stats = logits_of(trainable, frozen, stats, key, {"image": batch["image"]})
        total, losses = multi_task_loss(tasks, logits, batch["labels"], batch["valid"])
        return total, losses, stats

    return forward


def split(tree: Any, pieces: int) -> Any:
    """Cuts rows into pieces.

    Shapes: leaves `[B, ...]` to `[pieces, B / pieces, ...]`.

    >>> import numpy as np
    >>> split(np.arange(4), pieces=2).tolist()
    [[0, 1], [2, 3]]
    """
    return jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), tree)


def join(x: jax.Array, axis: int = 0) -> jax.Array:
    """The inverse of `split`, for results whose rows are at `axis` (counted without the axis of pieces).

    >>> join(split(jax.numpy.arange(4), pieces=2)).tolist()
    [0, 1, 2, 3]
    """
    x = jax.numpy.moveaxis(x, 0, axis)  # [..., pieces, rows, ...]
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
