"""Between a module tree and the plain nested dicts that cross `jax.jit`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from ditask_jax.nn.variables import Statistic


@dataclasses.dataclass(frozen=True)
class ModelState:
    """A model taken apart: nothing of NNX crosses the jit boundary but the static `graphdef`, which is closed over.

    Attributes:
      graphdef: static structure.
      trainable: nested dict of what trains.
      frozen: nested dict of what never changes.
      stats: nested dict of running statistics.
    """

    graphdef: Any
    trainable: dict
    frozen: dict
    stats: dict

    def merge(self, trainable: Mapping, frozen: Mapping, stats: Mapping) -> nnx.Module:
        """The module again, with these values; a copy, so that statistics may be written during a trace."""
        return nnx.merge(self.graphdef, trainable, frozen, stats, copy=True)


def split_state(model: nnx.Module) -> ModelState:
    """Takes a model apart by variable type: `Param` trains, `Statistic` runs, everything else is frozen."""
    graphdef, trainable, stats, frozen = nnx.split(model, nnx.Param, Statistic, ...)
    return ModelState(graphdef, *(nnx.to_pure_dict(part) for part in (trainable, frozen, stats)))


def statistics(model: nnx.Module) -> dict:
    """The running statistics of a model, as a nested dict."""
    return nnx.to_pure_dict(nnx.state(model, Statistic))


def map_arrays(module: nnx.Module, function: Callable[[Any], Any]) -> None:
    """Puts `function(array)` in the place of every array of a module."""
    state = nnx.state(module)
    nnx.replace_by_pure_dict(state, jax.tree.map(function, nnx.to_pure_dict(state)))
    nnx.update(module, state)


def flatten(tree: Mapping) -> dict[str, Any]:
    """A nested dict as a flat one with `/`-joined names, sorted.

    >>> flatten({"a": {1: "x", 0: "y"}, "c": 3})
    {'a/0': 'y', 'a/1': 'x', 'c': 3}
    """
    flat = {}

    def visit(node, prefix):
        if isinstance(node, Mapping):
            for key, child in node.items():
                visit(child, f"{prefix}{key}/")
        else:
            flat[prefix[:-1]] = node

    visit(tree, "")
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any], like: Mapping) -> dict:
    """The inverse of `flatten` for a tree of the same structure as `like` (which tells integer keys from names).

    >>> unflatten({"a/0": 2, "c": 3}, {"a": {0: None}, "c": None})
    {'a': {0: 2}, 'c': 3}
    """

    def fill(node, prefix):
        if isinstance(node, Mapping):
            return {key: fill(child, f"{prefix}{key}/") for key, child in node.items()}
        return flat[prefix[:-1]]

    return fill(like, "")
