"""The forward pass of a training step: the whole batch at once, in pieces, or each device's rows on their own.

Losses and batch statistics couple the examples of a batch. Three ways through the model keep or cut that coupling:

* *whole*: everything sees the whole batch.
* *in pieces* (`optimizer.accumulate`): the backbone, whose layers couple no examples, takes the batch piece by piece
  and is computed again in the backward pass, so that the activations of one piece are alive at a time; the heads take
  the joined features. BatchNorm and losses thus see the whole batch, and loss, gradients and statistics are those of
  the whole batch to rounding.
* *per shard* (`mesh.statistics=per_shard`): every device normalises and averages over its own rows, and the devices'
  losses, gradients and running statistics are averaged: what distributed data parallelism without synchronised
  BatchNorm does. With `accumulate`, so does every piece, one after another, the running statistics moving with each.

Dropout and drop path draw the same in all three: a draw belongs to an example's place in the whole batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import prepare_adapters
from ditask_jax.nn.state import ModelState, statistics
from ditask_jax.tasks.base import Task, multi_task_loss
from ditask_jax.training.mesh import batch_axes


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
      mesh: over which the batch is spread; needed in pieces and per shard.
      passage: None: the whole batch at once.
    """
    passage = passage or Passage()
    tasks = tuple(tasks)
    devices = 1 if mesh is None else mesh.devices.size

    def whole(trainable, frozen, stats, batch, key, rows=None):
        model = parts.merge(trainable, frozen, stats)
        context = Context(train=True, key=key, dtype=dtype, rows=rows, remat=passage.remat)
        logits = model(batch["image"], context)
        total, losses = multi_task_loss(tasks, logits, batch["labels"], batch["valid"])
        return total, losses, statistics(model)

    def in_pieces(trainable, frozen, stats, batch, key):
        model = parts.merge(trainable, frozen, stats)
        context = Context(train=True, key=key, dtype=dtype, remat=passage.remat)
        prepared = prepare_adapters(model.backbone, context)
        names = []

        def taps_of(piece):
            found = model.backbone(model.normalise(piece["image"]), dataclasses.replace(prepared, rows=piece["rows"]))
            names[:] = [streams for _, streams in found]
            return [x for x, _ in found]

        pieces = split({"image": batch["image"], "rows": _rows(batch)}, devices, passage.accumulate, mesh)
        taps = jax.lax.map(jax.checkpoint(taps_of), pieces)
        joined = [join(x, devices, axis=1) for x in taps]
        features = model.pick(list(zip(joined, names, strict=True)))
        logits = model.decode(features, batch["image"].shape[1:3], context)
        total, losses = multi_task_loss(tasks, logits, batch["labels"], batch["valid"])
        return total, losses, statistics(model)

    def per_shard(trainable, frozen, stats, batch, key):
        cut = split(batch | {"rows": _rows(batch)}, devices, passage.accumulate, mesh)
        by_device = jax.tree.map(lambda x: x.reshape(passage.accumulate, devices, -1, *x.shape[2:]), cut)

        def one(stats, shard):
            rows = shard.pop("rows")
            return whole(trainable, frozen, stats, shard, key, rows)

        def piece_of(stats, shards):
            total, losses, stats = jax.vmap(lambda shard: one(stats, shard))(shards)
            mean = lambda tree: jax.tree.map(lambda x: x.mean(0), tree)
            return mean(stats), mean((total, losses))

        if passage.accumulate == 1:
            stats, (total, losses) = piece_of(stats, jax.tree.map(lambda x: x[0], by_device))
            return total, losses, stats
        stats, found = jax.lax.scan(jax.checkpoint(piece_of), stats, by_device)
        total, losses = jax.tree.map(lambda x: x.mean(0), found)
        return total, losses, stats

    if passage.per_shard:
        return per_shard
    return whole if passage.accumulate == 1 else in_pieces


def _rows(batch) -> jax.Array:
    return jnp.arange(batch["valid"].shape[0], dtype=jnp.int32)


def split(tree: Any, devices: int, pieces: int, mesh: Mesh | None = None) -> Any:
    """Cuts rows into pieces, each with the same share of every device's block of rows, so that none has to move.

    Shapes: leaves `[B, ...]` to `[pieces, B / pieces, ...]`.

    >>> split(jnp.arange(8), devices=2, pieces=2).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """

    def cut(x):
        x = x.reshape(devices, pieces, -1, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(pieces, -1, *x.shape[3:])
        if mesh is None or mesh.devices.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, batch_axes(mesh))))

    return jax.tree.map(cut, tree)


def join(x: jax.Array, devices: int, axis: int = 0) -> jax.Array:
    """The inverse of `split`, for results whose rows are at `axis` (counted without the axis of pieces).

    >>> join(split(jnp.arange(8), devices=2, pieces=2), devices=2).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    x = jnp.moveaxis(x, 0, axis)  # [..., pieces, rows, ...]
    before, (pieces, rows), behind = x.shape[:axis], x.shape[axis : axis + 2], x.shape[axis + 2 :]
    x = x.reshape(*before, pieces, devices, rows // devices, *behind)
    return x.swapaxes(axis, axis + 1).reshape(*before, pieces * rows, *behind)
