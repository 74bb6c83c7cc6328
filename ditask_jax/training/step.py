"""One optimiser step and one evaluation step, jitted over plain nested dicts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ditask_jax.adapters.merging import merge
from ditask_jax.errors import check_known
from ditask_jax.nn.context import Context, name_hash
from ditask_jax.nn.state import ModelState
from ditask_jax.tasks.base import Task, multi_task_loss
from ditask_jax.training.devices import on_each_device
from ditask_jax.training.forward import Passage, make_forward
from ditask_jax.training.guards import all_finite
from ditask_jax.training.mesh import frozen_shardings, replicated, sharded
from ditask_jax.training.resolution import resize_to_own
from ditask_jax.training.surgery import SURGERIES, pcgrad


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
) -> Callable:
    """`gradients(trainable, stats, frozen, batch, step) -> total, losses, statistics, gradients, extra metrics`.

    Args as for `make_train_step`.
    """
    check_known("config: optimizer.surgery", surgery, SURGERIES)
    loss, terms = (make(parts, tasks, dtype, mesh, passage) for make in (make_loss, make_terms))

    def gradients(trainable, stats, frozen, batch, number):
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
      mesh: where batches are spread over; see `ditask_jax.training.mesh` for the frozen weights.
      seed: of dropout and drop path.
      dtype: of the matrix products.
      surgery: what becomes of conflicting gradients; see `ditask_jax.training.surgery`.
      passage: how the batch goes through the model; None: at once.

    Returns:
      A jitted function; `turn` is a `Turn`, or the number of the step alone. Its metrics are scalars: the boolean
      `finite`, and float32 `loss`, `grad_norm` (before clipping), `tasks/<name>/loss`, and with surgery `conflicts`,
      the share of pairs of tasks that conflict; where the turn has them, the booleans `stop`, whether any process was
      asked to, and `halted`, whether this step or one before was not finite.
    """
    gradients_of = make_gradients(parts, tasks, mesh, seed, dtype, surgery, passage)

    def step(trainable, opt_state, stats, frozen, batch, turn):
        turn = turn if isinstance(turn, Turn) else Turn(turn)
        total, losses, new_stats, gradients, extra = gradients_of(trainable, stats, frozen, batch, turn.number)
        updates, new_opt_state = optimizer.update(gradients, opt_state, trainable)
        new_trainable = optax.apply_updates(trainable, updates)
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

    whole, split = replicated(mesh), sharded(mesh)
    return jax.jit(
        step,
        donate_argnums=(0, 1, 2),
        in_shardings=(whole, whole, whole, frozen_shardings(mesh, parts.frozen), split, None),
        out_shardings=whole,
    )


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

    whole, split = replicated(mesh), sharded(mesh)
    frozen = whole if parts is None else frozen_shardings(mesh, parts.frozen)
    return jax.jit(eval_step, in_shardings=(whole, whole, frozen, split), out_shardings=whole)
