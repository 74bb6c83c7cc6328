"""One step: the forward pass (whole, in pieces or per shard), losses, gradients and update; and an evaluation step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ditask_jax.adapters.merging import merge
from ditask_jax.errors import check_known
from ditask_jax.nn.context import Context, name_hash
from ditask_jax.nn.remat import split
from ditask_jax.nn.state import ModelState, statistics
from ditask_jax.tasks.base import Task, multi_task_loss
from ditask_jax.training.nonfinite import all_finite
from ditask_jax.training.optim.method_hooks import Hooks
from ditask_jax.training.optim.pcgrad import SURGERIES, pcgrad
from ditask_jax.training.sharding import frozen_shardings, on_each_device, replicated, sharded

# The forward pass of a training step: the whole batch at once, in pieces, or each device's rows on their own.
#
# Every device takes its own rows through the model, a program that names no other device; what has to cross is written
# out. Gradients of what trains are summed over the devices once, in the dtype of the parameters (float32), after each
# device has carried its kernels' gradients to thetas. Frozen weights that are spread are gathered once. BatchNorm adds
# up its statistics. Nothing else crosses: the compiler has no choice to make (`ditask_jax.training.sharding`).
#
# Losses and batch statistics couple the examples of a batch. Three ways through the model keep or cut that coupling:
#
# * *whole*: BatchNorm and losses see the whole batch.
# * *in pieces* (`optimizer.accumulate`): the backbone, whose layers couple no examples, takes a device's rows piece by
#   piece and is computed again in the backward pass, so that the activations of one piece are alive at a time; the
#   heads take the joined features. BatchNorm and losses thus see the whole batch, and loss, gradients and statistics
#   are those of the whole batch to rounding.
# * *per shard* (`mesh.statistics=per_shard`): every device normalises and averages over its own rows, and the devices'
#   losses, gradients and running statistics are averaged: what distributed data parallelism without synchronised
#   BatchNorm does. With `accumulate`, so does every piece, one after another, the running statistics moving with each.
#
# Dropout and drop path draw the same in all three: a draw belongs to an example's place in the whole batch.


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

    def whole(trainable, frozen, stats, key, batch, place, pieces=passage.accumulate):
        model = parts.merge(trainable, frozen, stats)
        context = Context(
            train=True,
            key=key,
            dtype=dtype,
            rows=place.rows,
            remat=passage.remat,
            pieces=pieces,
            batch_axes=place.axes,
        )
        return model(batch["image"], context), statistics(model)

    def per_shard(trainable, frozen, stats, key, batch, place):
        def piece_of(stats, piece):
            here = dataclasses.replace(place, rows=piece.pop("rows"), axes=())
            logits, stats = whole(trainable, frozen, stats, key, piece, here, pieces=1)
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

    logits_of = on_each_device(parts, mesh, whole)

    def forward(trainable, frozen, stats, batch, key):
        logits, stats = logits_of(trainable, frozen, stats, key, {"image": batch["image"]})
        total, losses = multi_task_loss(tasks, logits, batch["labels"], batch["valid"])
        return total, losses, stats

    return forward


# The training step, jitted over plain nested dicts.


class Turn(NamedTuple):
    """What a step is told besides its state and its batch.

    Attributes:
      number: of the step, int32, counted from 0.
      stop: whether a process was asked to stop, bool `[devices]`, spread over the mesh. None: nobody asks.
      halted: whether a step before was not finite, a boolean: then this one leaves the state as it is. None: no.
    """

    number: jax.Array
    stop: jax.Array | None = None
    halted: jax.Array | None = None


def make_loss(
    parts: ModelState, tasks: Sequence[Task], dtype, mesh: Mesh | None = None, passage: Passage | None = None
) -> Callable:
    """`loss(trainable, frozen, stats, batch, key) -> total, (losses by task, new statistics)` in training mode."""
    forward = make_forward(parts, tasks, dtype, mesh, passage)

    def loss(*arguments):
        total, losses, stats = forward(*arguments)
        return total, (losses, stats)

    return loss


def make_terms(
    parts: ModelState, tasks: Sequence[Task], dtype, mesh: Mesh | None = None, passage: Passage | None = None
) -> Callable:
    """As `make_loss`, but with the tasks' weighted losses one by one, `[T]`, in place of their sum."""
    forward = make_forward(parts, tasks, dtype, mesh, passage)

    def terms(*arguments):
        _, losses, stats = forward(*arguments)
        return jnp.stack([task.loss_weight * losses[task.name] for task in tasks]), (losses, stats)

    return terms


def make_gradients(
    parts: ModelState,
    tasks: Sequence[Task],
    mesh: Mesh,
    seed: int,
    dtype=jnp.float32,
    surgery: str = "none",
    passage: Passage | None = None,
    hooks: Hooks | None = None,
) -> Callable:
    """`gradients(trainable, stats, frozen, batch, step) -> total, losses, statistics, gradients, extra metrics`.

    Args as for `make_train_step`.
    """
    check_known("config: optimizer.surgery", surgery, SURGERIES)
    loss, terms = (make(parts, tasks, dtype, mesh, passage) for make in (make_loss, make_terms))

    def gradients(trainable, stats, frozen, batch, number):
        total, losses, new_stats, found, extra = of_batch(trainable, stats, frozen, batch, number)
        if hooks is not None:
            total, found = hooks.penalised(total, found, trainable, frozen, stats)
        return total, losses, new_stats, found, extra

    def of_batch(trainable, stats, frozen, batch, number):
        key_for = lambda name: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), name_hash(name)), number)
        rest = (frozen, stats, batch, key_for("train"))
        if surgery == "none":
            (total, (losses, stats)), found = jax.value_and_grad(loss, has_aux=True)(trainable, *rest)
            return total, losses, stats, found, {}
        parts_of_loss = lambda values: terms(values, *rest)
        total, (losses, stats), found, extra = pcgrad(parts_of_loss, trainable, key_for("surgery"))
        return total, losses, stats, found, extra

    return gradients


def make_train_step(
    parts: ModelState,
    tasks: Sequence[Task],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    dtype=jnp.float32,
    surgery: str = "none",
    passage: Passage | None = None,
    hooks: Hooks | None = None,
) -> Callable:
    """The jitted `step(trainable, opt_state, stats, frozen, batch, turn) -> trainable, opt_state, stats, metrics`.

    Losses and batch statistics are those of the global batch, unless `passage` says otherwise. Every random number is a
    function of (seed, step, layer, stream, place in the batch), so a resumed run draws what the straight one drew. The
    first three arguments are donated. Where anything is NaN or infinite (a float of the batch, a loss, a gradient, what
    the update makes of it), the three come back as they were and the metric `finite` is False.

    Args:
      parts: the wrapped model taken apart; its graph is closed over.
      tasks: the tasks, in the model's order.
      optimizer: see `make_optimizer`.
      mesh: where batches are spread over; see `ditask_jax.training.sharding` for the frozen weights.
      seed: of dropout and drop path.
      dtype: of the matrix products.
      surgery: what becomes of conflicting gradients; see `ditask_jax.training.optim.pcgrad`.
      passage: how the batch goes through the model; None: at once.
      hooks: what the method does beside; see `ditask_jax.training.optim.method_hooks`. None: nothing.

    Returns:
      A jitted function; `turn` is a `Turn`, or the number of the step alone. Its metrics are scalars: the boolean
      `finite`, and float32 `loss`, `grad_norm` (before clipping), `tasks/<name>/loss`, and with surgery `conflicts`,
      the share of pairs of tasks that conflict; where the turn has them, the booleans `stop`, whether any process was
      asked to, and `halted`, whether this step or one before was not finite.
    """
    gradients_of = make_gradients(parts, tasks, mesh, seed, dtype, surgery, passage, hooks)

    def step(trainable, opt_state, stats, frozen, batch, turn):
        turn = turn if isinstance(turn, Turn) else Turn(turn)
        total, losses, new_stats, gradients, extra = gradients_of(trainable, stats, frozen, batch, turn.number)
        if hooks is not None:
            new_stats, told = hooks.observed(gradients, trainable, frozen, new_stats)
            extra = extra | told
        updates, new_opt_state = optimizer.update(gradients, opt_state, trainable)
        new_trainable = optax.apply_updates(trainable, updates)
        if hooks is not None:
            behind = new_trainable, new_opt_state, new_stats
            new_trainable, new_opt_state, new_stats = hooks.behind(turn.number, *behind, frozen)
        norm = optax.tree.norm(gradients)
        finite = all_finite((batch, losses, total, norm, new_trainable, new_stats))
        applies = finite if turn.halted is None else finite & ~turn.halted
        metrics = {f"tasks/{name}/loss": value for name, value in losses.items()}
        metrics |= {"loss": total, "grad_norm": norm, "finite": finite} | extra
        metrics |= {} if turn.stop is None else {"stop": turn.stop.any()}
        metrics |= {} if turn.halted is None else {"halted": ~applies}
        new, old = (new_trainable, new_opt_state, new_stats), (trainable, opt_state, stats)
        # One conditional: a choice for each of hundreds of arrays takes several times as long to compile.
        state = jax.lax.cond(applies, lambda new, old: new, lambda new, old: old, new, old)
        return *state, metrics

    whole, by_rows = replicated(mesh), sharded(mesh)
    return jax.jit(
        step,
        donate_argnums=(0, 1, 2),
        in_shardings=(whole, whole, whole, frozen_shardings(mesh, parts.frozen), by_rows, None),
        out_shardings=whole,
    )


# The evaluation step: adapters merged, and scores at the labels' own resolution where these are asked for.


def make_predict(parts: ModelState, dtype=jnp.float32, mesh: Mesh | None = None) -> Callable:
    """`predict(trainable, frozen, stats, images) -> logits by task`, with adapters merged into plain kernels.

    Over a mesh every device merges for itself and takes its own rows.
    """

    def logits_of(trainable, frozen, stats, key, images, place):
        del key, place
        model = merge(parts.merge(trainable, frozen, stats))
        return model(images, Context(train=False, dtype=dtype)), ()

    run = on_each_device(parts, mesh, logits_of)
    return lambda trainable, frozen, stats, images: run(trainable, frozen, stats, (), images)[0]


def resize_to_own(logits: jax.Array, sizes: jax.Array, canvas: tuple[int, int]) -> jax.Array:
    """Resizes each map to its own size, bilinearly (half-pixel, no anti-aliasing), in the corner of a common canvas.

    Args:
      logits: float32 `[B, h, w, C]`.
      sizes: int32 `[B, 2]`, heights and widths, at most those of the canvas.
      canvas: height and width of the result; labels are ignored outside of each map's size, what stands there is
        arbitrary.

    Returns:
      float32 `[B, *canvas, C]`.

    >>> resize_to_own(jnp.array([[[[0.0], [8.0]]]]), jnp.array([[1, 4]]), (1, 5))[0, 0, :4, 0].tolist()
    [0.0, 2.0, 6.0, 8.0]
    """
    rows = jax.vmap(lambda size: _weights(logits.shape[1], size, canvas[0]))(sizes[:, 0])
    columns = jax.vmap(lambda size: _weights(logits.shape[2], size, canvas[1]))(sizes[:, 1])
    highest = jax.lax.Precision.HIGHEST
    wide = jnp.einsum("bhwc,bow->bhoc", logits, columns, precision=highest)
    return jnp.einsum("bhoc,bph->bpoc", wide, rows, precision=highest)


def _weights(source: int, target: jax.Array, length: int) -> jax.Array:
    """The `[length, source]` matrix of which the first `target` rows interpolate `source` values at `target` places."""
    ratio = source / jnp.maximum(target, 1).astype(jnp.float32)
    places = (jnp.arange(length, dtype=jnp.float32) + 0.5) * ratio - 0.5
    places = jnp.clip(places, 0.0, source - 1.0)
    distance = jnp.abs(places[:, None] - jnp.arange(source, dtype=jnp.float32)[None])
    return jnp.maximum(1.0 - distance, 0.0)


def make_eval_step(parts: ModelState, tasks: Sequence[Task], mesh: Mesh, dtype=jnp.float32) -> Callable:
    """The jitted `eval_step(trainable, stats, frozen, batch) -> sums, losses, predictions`.

    `sums` are the metric sums of tasks scored on the device, `predictions` the decoded outputs of those scored on the
    host, `losses` the unweighted task losses of the batch. Where the batch has "size", maps are scored at the labels'
    own sizes.
    """
    predict = make_predict(parts, dtype, mesh)

    def eval_step(trainable, stats, frozen, batch):
        logits = predict(trainable, frozen, stats, batch["image"])
        labels, valid = batch["labels"], batch["valid"]
        if "size" in batch:
            for name in (task.name for task in tasks if task.is_map):
                logits[name] = resize_to_own(logits[name], batch["size"], labels[name].shape[1:3])
        sums = {t.name: t.metric_sums(logits[t.name], labels[t.name], valid) for t in tasks if not t.on_host}
        decoded = {t.name: t.decode(logits[t.name]) for t in tasks if t.on_host}
        _, losses = multi_task_loss(tuple(tasks), logits, labels, valid)
        return sums, losses, decoded

    whole, by_rows = replicated(mesh), sharded(mesh)
    frozen = whole if parts is None else frozen_shardings(mesh, parts.frozen)
    return jax.jit(eval_step, in_shardings=(whole, whole, frozen, by_rows), out_shardings=whole)
