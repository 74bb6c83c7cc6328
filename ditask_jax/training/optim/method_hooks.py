"""What a method does in a training step beside computing its layers: penalties, watching gradients, ends of epochs.

An adapter's class takes part by defining one of `HOOKS` (`ditask_jax.nn.linear.LayerAdapter` says what each is). Where
no adapter of a model does, there are no hooks, and the step is what it is without this module.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ditask_jax.nn.linear import LayerAdapter, linears
from ditask_jax.nn.state import ModelState, flatten, statistics, unflatten

HOOKS = ("penalty", "observe", "end_epoch", "measures")


class Hooks:
    """The hooks of a model's adapters, as functions of the plain dicts of a training step.

    Args:
      parts: the wrapped model taken apart.
      paths: by hook, the layers whose adapters have it.
      steps_per_epoch: optimiser steps of an epoch.
      clip: what clips gradients; None: nothing does.
    """

    def __init__(
        self,
        parts: ModelState,
        paths: Mapping[str, Sequence[str]],
        steps_per_epoch: int,
        clip: optax.GradientTransformation | None = None,
    ):
        self._parts, self._paths, self._steps, self._clip = parts, paths, steps_per_epoch, clip

    def _layers(self, hook: str, model: Any) -> list[tuple[str, Any]]:
        wanted = set(self._paths[hook])
        return [(layer.info.path, layer) for layer in linears(model) if layer.info.path in wanted]

    def penalised(self, total: jax.Array, gradients: Any, trainable: Any, frozen: Any, stats: Any) -> tuple:
        """A loss and its gradients with the penalties and theirs."""
        if not self._paths["penalty"]:
            return total, gradients

        def penalties(trainable):
            model = self._parts.merge(trainable, frozen, stats)
            return sum(layer.adapter.penalty(layer) for _, layer in self._layers("penalty", model))

        more, found = jax.value_and_grad(penalties)(trainable)
        return total + more, jax.tree.map(jnp.add, gradients, found)

    def observed(self, gradients: Any, trainable: Any, frozen: Any, stats: Any) -> tuple[Any, dict[str, jax.Array]]:
        """The statistics behind what adapters see of the gradients of a step, and what they log."""
        clipped = gradients if self._clip is None else self._clip.update(gradients, self._clip.init(None))[0]
        flat = flatten(clipped)
        model = self._parts.merge(trainable, frozen, stats)
        for path, layer in self._layers("observe", model):
            layer.adapter.observe(_own(flat, path))
        found: dict[str, list[jax.Array]] = {}
        for _, layer in self._layers("measures", model):
            for name, value in layer.adapter.measures().items():
                found.setdefault(name, []).append(value)
        return statistics(model), {name: sum(values) / len(values) for name, values in found.items()}

    def behind(self, number: jax.Array, trainable: Any, opt_state: Any, stats: Any, frozen: Any) -> tuple:
        """What trains, the optimiser's state and the statistics behind a step: others where it ends an epoch.

        Args:
          number: of the step, counted from 0.
          trainable, opt_state, stats: as the step leaves them.
          frozen: the frozen weights.
        """
        if not self._paths["end_epoch"]:
            return trainable, opt_state, stats

        def ended(trainable, opt_state, stats):
            model = self._parts.merge(trainable, frozen, stats)
            changes = {path: layer.adapter.end_epoch() for path, layer in self._layers("end_epoch", model)}

            def changed(tree):
                flat = flatten(tree)
                for path, change in changes.items():
                    flat |= {f"{path}/adapter/{name}": x for name, x in change(_own(flat, path)).items()}
                return unflatten(flat, tree)

            structure = jax.tree.structure(trainable)
            like = lambda node: isinstance(node, Mapping) and jax.tree.structure(node) == structure
            # The moments of every optimiser are trees like the parameters; all else that it keeps stays.
            moments = jax.tree.map(lambda node: changed(node) if like(node) else node, opt_state, is_leaf=like)
            return changed(trainable), moments, statistics(model)

        ends = (number + 1) % self._steps == 0
        return jax.lax.cond(ends, ended, lambda *state: state, trainable, opt_state, stats)


def _own(flat: Mapping[str, jax.Array], path: str) -> dict[str, jax.Array]:
    """The arrays of one adapter, by name."""
    start = f"{path}/adapter/"
    return {name.removeprefix(start): value for name, value in flat.items() if name.startswith(start)}


def method_hooks(
    parts: ModelState, steps_per_epoch: int, clip: optax.GradientTransformation | None = None
) -> Hooks | None:
    """The hooks of a wrapped model's adapters; None where they have none.

    Args:
      parts: the model taken apart.
      steps_per_epoch: optimiser steps of an epoch.
      clip: what clips the gradients of training; None: nothing does.
    """
    paths: dict[str, list[str]] = {hook: [] for hook in HOOKS}
    for layer in linears(parts.merge(parts.trainable, parts.frozen, parts.stats)):
        for hook in HOOKS if layer.adapter is not None else ():
            if getattr(type(layer.adapter), hook) is not getattr(LayerAdapter, hook):
                paths[hook].append(layer.info.path)
    return Hooks(parts, paths, steps_per_epoch, clip) if any(paths.values()) else None
