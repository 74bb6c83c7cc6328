"""One optimiser step and one evaluation step, jitted over plain nested dicts."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ditask_jax.adapters.merging import merge
from ditask_jax.errors import check_known
from ditask_jax.nn.context import Context, name_hash
from ditask_jax.nn.state import ModelState, statistics
from ditask_jax.tasks.base import Task, multi_task_loss
from ditask_jax.training.mesh import replicated, sharded
from ditask_jax.training.resolution import resize_to_own
from ditask_jax.training.surgery import SURGERIES, pcgrad


def _make_forward(parts: ModelState, tasks: Sequence[Task], dtype) -> Callable:
    """`forward(trainable, frozen, stats, batch, key) -> total, losses by task, new statistics` in training mode."""

    def forward(trainable, frozen, stats, batch, key):
        model = parts.merge(trainable, frozen, stats)
        logits = model(batch["image"], Context(train=True, key=key, dtype=dtype))
        total, losses = multi_task_loss(tuple(tasks), logits, batch["labels"], batch["valid"])
        return total, losses, statistics(model)

    return forward


def make_loss(parts: ModelState, tasks: Sequence[Task], dtype) -> Callable:
    """`loss(trainable, frozen, stats, batch, key) -> total, (losses by task, new statistics)` in training mode."""
    forward = _make_forward(parts, tasks, dtype)

    def loss(*arguments):
        total, losses, stats = forward(*arguments)
        return total, (losses, stats)

    return loss


def make_terms(parts: ModelState, tasks: Sequence[Task], dtype) -> Callable:
    """As `make_loss`, but with the tasks' weighted losses one by one, `[T]`, in place of their sum."""
    forward = _make_forward(parts, tasks, dtype)

    def terms(*arguments):
        _, losses, stats = forward(*arguments)
        return jnp.stack([task.loss_weight * losses[task.name] for task in tasks]), (losses, stats)

    return terms


def make_train_step(
    parts: ModelState,
    tasks: Sequence[Task],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    dtype=jnp.float32,
    surgery: str = "none",
) -> Callable:
    """The jitted `step(trainable, opt_state, stats, frozen, batch, step) -> trainable, opt_state, stats, metrics`.

    Losses and batch statistics are those of the global batch. Every random number is a function of (seed, step,
    layer, stream), so a resumed run draws what the straight one drew. The first three arguments are donated.

    Args:
      parts: the wrapped model taken apart; its graph is closed over.
      tasks: the tasks, in the model's order.
      optimizer: see `make_optimizer`.
      mesh: where batches are spread over; everything else is replicated.
      seed: of dropout and drop path.
      dtype: of the matrix products.
      surgery: what becomes of conflicting gradients; see `ditask_jax.training.surgery`.

    Returns:
      A jitted function; its metrics are float32 scalars: `loss`, `grad_norm` (before clipping),
      `tasks/<name>/loss`, and with surgery `conflicts`, the share of pairs of tasks that conflict.
    """
    check_known("config: optimizer.surgery", surgery, SURGERIES)
    loss, terms = make_loss(parts, tasks, dtype), make_terms(parts, tasks, dtype)

    def step(trainable, opt_state, stats, frozen, batch, number):
        key_for = lambda name: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), name_hash(name)), number)
        rest = (frozen, stats, batch, key_for("train"))
        if surgery == "none":
            (total, (losses, stats)), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, *rest)
            extra = {}
        else:
            parts_of_loss = lambda values: terms(values, *rest)
            total, (losses, stats), gradients, extra = pcgrad(parts_of_loss, trainable, key_for("surgery"))
        updates, opt_state = optimizer.update(gradients, opt_state, trainable)
        metrics = {f"tasks/{name}/loss": value for name, value in losses.items()}
        metrics |= {"loss": total, "grad_norm": optax.tree.norm(gradients)} | extra
        return optax.apply_updates(trainable, updates), opt_state, stats, metrics

    whole, split = replicated(mesh), sharded(mesh)
    return jax.jit(
        step,
        donate_argnums=(0, 1, 2),
        in_shardings=(whole, whole, whole, whole, split, None),
        out_shardings=whole,
    )


def make_predict(parts: ModelState, dtype=jnp.float32) -> Callable:
    """`predict(trainable, frozen, stats, images) -> logits by task`, with adapters merged into plain kernels."""

    def predict(trainable, frozen, stats, images):
        model = merge(parts.merge(trainable, frozen, stats))
        return model(images, Context(train=False, dtype=dtype))

    return predict


def make_eval_step(parts: ModelState, tasks: Sequence[Task], mesh: Mesh, dtype=jnp.float32) -> Callable:
    """The jitted `eval_step(trainable, stats, frozen, batch) -> sums, losses, predictions`.

    `sums` are the metric sums of tasks scored on the device, `predictions` the decoded outputs of those scored on the
    host, `losses` the unweighted task losses of the batch. Where the batch has "size", maps are scored at the labels'
    own sizes.
    """
    predict = make_predict(parts, dtype)

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
    return jax.jit(eval_step, in_shardings=(whole, whole, whole, split), out_shardings=whole)
