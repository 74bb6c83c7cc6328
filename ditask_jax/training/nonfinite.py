"""Guards against numbers that are not finite: flags inside the step, names and a copy of the batch once one is found.

The step itself computes one boolean (`all_finite`) and keeps the state it was given where that is False. Which loss,
gradient or parameter it was is found afterwards, by a program of its own that is compiled only then.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.errors import DitaskError
from ditask_jax.files import atomic_write, json_text

SKIPS_IN_A_ROW = 20
"""So many steps left out one after another end a training: nothing would come of more."""
BATCHES_KEPT = 5
"""Batches written by a run that leaves steps out; later ones are only counted."""
_NAMED = 3


class NonFiniteError(DitaskError):
    """A loss, gradient or parameter that is NaN or infinite: training on would only lose the weights."""


def all_finite(tree: Any) -> jax.Array:
    """Whether every floating-point number of a tree is finite; other types are.

    >>> bool(all_finite({"a": jnp.ones(2), "b": jnp.arange(3)})), bool(all_finite([jnp.array([1.0, jnp.inf])]))
    (True, False)
    """
    flags = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack(flags).all() if flags else jnp.bool_(True)


def bad_leaves(tree: Any) -> list[str]:
    """Paths of the leaves that hold something not finite, of arrays or of the flags of `leaf_flags`.

    >>> bad_leaves({"a": {"theta": np.array([1.0, np.nan])}, "b": np.ones(2)})
    ['a/theta']
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return [name(path) for path, leaf in leaves if not _is_fine(leaf)]


def _is_fine(leaf: Any) -> bool:
    array = np.asarray(leaf)
    if array.dtype == bool:
        return bool(array.all())
    return array.dtype.kind in "iu" or bool(np.isfinite(array.astype(np.float64)).all())


def make_diagnosis(gradients_of: Callable) -> Callable:
    """The jitted `diagnose(trainable, stats, frozen, batch, step) -> flags by kind and leaf, losses by task`.

    Args:
      gradients_of: what the step takes its gradients from; see `make_gradients`.
    """
    flag = lambda tree: jax.tree.map(all_finite, tree)

    def diagnose(trainable, stats, frozen, batch, number):
        _, losses, new_stats, gradients, _ = gradients_of(trainable, stats, frozen, batch, number)
        before = {"batch": batch, "parameter": trainable, "statistic": stats, "frozen weight": frozen}
        behind = {"gradient of": gradients, "new statistic": new_stats}
        return flag(before), losses, flag(behind)

    return jax.jit(diagnose)


def describe(before: Mapping, losses: Mapping[str, Any], behind: Mapping) -> list[str]:
    """What was not finite, in the order in which one leads to the next.

    >>> describe({"batch": {"image": True}}, {"depth": np.float32("inf")}, {})
    ['the loss of depth is inf']
    >>> describe({}, {"depth": np.float32(1)}, {"gradient of": {"backbone": True, "heads": {"depth": {"bias": False}}}})
    ['gradient of heads/depth/bias (task depth)']
    """
    found = [line for kind, tree in before.items() for line in _named(kind, bad_leaves(tree))]
    found += [f"the loss of {name} is {float(value)}" for name, value in losses.items() if not np.isfinite(value)]
    for kind, tree in behind.items():
        bad = bad_leaves(tree)
        # A gradient enters the network through the head of the task that it comes from.
        tasks = [name for name in losses if any(f"/{name}/" in leaf for leaf in bad)]
        found += _named(kind, bad, f" (task {', '.join(tasks)})" if tasks else "")
    return found


def _named(kind: str, bad: list[str], behind: str = "") -> list[str]:
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return [f"{kind} {', '.join(bad[:_NAMED])}{more}{behind}"] if bad else []


def write_batch(folder: Path, step: int, batch: Mapping[str, Any], found: list[str]) -> Path:
    """Writes the batch of a step, as this process read it, to `<folder>/step_<step>.npz`, whole or not at all.

    Arrays are named `image`, `labels/TASK`, `valid`, `index`; `found` holds what was wrong, as JSON.
    """
    arrays = {name: np.asarray(value) for name, value in batch.items() if name != "labels"}
    arrays |= {f"labels/{name}": np.asarray(value) for name, value in batch["labels"].items()}
    arrays["found"] = np.array(json_text({"step": step, "found": found}))
    process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
    return atomic_write(folder / f"step_{step:06d}{process}.npz", lambda file: np.savez(file, **arrays))


class Guard:
    """Looks at the metrics of every step; says what was wrong, keeps the batch, then stops the run or counts.

    Args:
      policy: "stop" or "skip", as `on_nonfinite` of the configuration.
      folder: where offending batches go.
      skipped: steps that this run has left out before.
      newest: gives the step of the newest whole checkpoint, None where there is none.

    Attributes:
      skipped: steps left out so far.
    """

    def __init__(self, policy: str, folder: Path, skipped: int = 0, newest: Callable[[], int | None] = lambda: None):
        self.policy = policy
        self.folder = folder
        self.skipped = skipped
        self._newest = newest
        self._in_a_row = 0

    def passed(self) -> None:
        """A step was fine."""
        self._in_a_row = 0

    def failed(self, step: int, found: list[str], batch: Mapping[str, Any]) -> str:
        """A step was not.

        Args:
          step: its number, counted from 1.
          found: what was not finite.
          batch: as it was read.

        Returns:
          A line on the step left out.

        Raises:
          NonFiniteError: the policy is to stop, or too many steps were left out in a row.
        """
        what = "; ".join(found) or "the update of the parameters"
        what = f"training: step {step}: not finite: {what}"
        newest = self._newest()
        kept = f"parameters are still those of step {step - 1}"
        kept += "; no checkpoint yet" if newest is None else f"; the checkpoint of step {newest} is whole"
        if self.policy == "stop":
            raise NonFiniteError(
                f"{what}. {self._write(step, batch, found)}; {kept}. Look at that batch, lower "
                "optimizer.learning_rate, or leave such steps out with --config.on_nonfinite=skip"
            )
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= SKIPS_IN_A_ROW:
            raise NonFiniteError(
                f"{what}. {self._in_a_row} steps in a row were left out; {kept}. Lower optimizer.learning_rate"
            )
        written = f". {self._write(step, batch, found)}" if self.skipped <= BATCHES_KEPT else ""
        return f"{what}{written}; step left out, {self.skipped} so far"

    def _write(self, step: int, batch: Mapping[str, Any], found: list[str]) -> str:
        try:
            return f"The batch is in {write_batch(self.folder, step, batch, found)}"
        except OSError as error:
            return f"The batch could not be written ({error.strerror or error})"
