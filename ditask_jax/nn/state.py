"""Variable types, splitting a module into plain dicts by type, and putting such dicts back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from ditask_jax.errors import CheckpointError

# Variable types: what trains (`flax.nnx.Param`), what is frozen, and what is a running statistic.


class FrozenParam(nnx.Variable):
    """A weight that never trains. Not a `Param`, so no gradient, optimiser slot or mask for it can exist."""


class Statistic(nnx.Variable):
    """A running statistic (BatchNorm mean and variance): written by a training step, never differentiated."""


@dataclasses.dataclass(frozen=True)
class Declared:
    """What the maker of a parameter declares to the optimiser.

    A layer declares whether weight decay applies, `nnx.Param(value, decay=False)`; where it does not, matrices decay
    and vectors do not. A module declares the group of all parameters in it, unless a module inside declares its own, by
    the class attribute `param_group`.

    Attributes:
      decay: whether weight decay applies; or the name of the switch that decides, "thetas" for
        `optimizer.decay_thetas`, "bias_tables" for `optimizer.decay_bias_tables`.
      group: "pretrained" (of a backbone), "adapters" (added by a method) or "decoders" (anything else).
    """

    decay: bool | str
    group: str = "decoders"


def declarations(model: nnx.Module) -> dict:
    """The `Declared` of every parameter, as a nested dict like the trainable ones of `split_state`.

    >>> from ditask_jax.nn import LayerNorm, Scope
    >>> declarations(LayerNorm(4, Scope()))["scale"]
    Declared(decay=False, group='decoders')
    """
    groups = {}
    for path, module in nnx.iter_modules(model):
        if (group := getattr(type(module), "param_group", None)) is not None:
            groups[path] = group

    def declared(path: tuple, variable: nnx.Variable) -> Declared:
        decay = variable.get_metadata().get("decay")
        owners = [groups[path[:end]] for end in range(len(path), -1, -1) if path[:end] in groups]
        return Declared(len(variable.shape) > 1 if decay is None else decay, *owners[:1])

    found = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return nnx.traversals.unflatten_mapping({path: declared(path, variable) for path, variable in found})


# Between a module tree and the plain nested dicts that cross `jax.jit`.


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

    @property
    def declared(self) -> dict:
        """What the makers of the trainable parameters declare to the optimiser; see `declarations`."""
        return declarations(self.merge(self.trainable, self.frozen, self.stats))

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


# Putting a training state into a module, whatever shape the state was handed over in.


def state_parts(state: Any) -> tuple[Mapping, Mapping]:
    """What trains and the running statistics, from what training or loading returned.

    Args:
      state: `(trainable, opt_state, stats)` as from `Trainer.fit`, `(trainable, stats)`, a `ModelState`, or a mapping
        with the keys "trainable" and "stats".

    >>> state_parts(({"w": 1}, "optimiser", {}))
    ({'w': 1}, {})
    """
    if isinstance(state, ModelState):
        return state.trainable, state.stats
    if isinstance(state, Mapping) and {"trainable", "stats"} <= state.keys():
        return state["trainable"], state["stats"]
    if isinstance(state, tuple | list) and len(state) in (2, 3) and isinstance(state[0], Mapping):
        return state[0], state[-1]
    raise CheckpointError(
        f"state: got a {type(state).__name__}, expected what trainer.fit returned: (trainable, opt_state, stats)"
    )


def filled(model: nnx.Module, state: Any = None) -> nnx.Module:
    """A copy of a model with the values of a state, or the model itself where there is none.

    Raises:
      CheckpointError: the state belongs to another model; the differences are named.
    """
    if state is None:
        return model
    parts = split_state(model)
    trainable, stats = state_parts(state)
    for kind, mine, given in (("trainable", parts.trainable, trainable), ("stats", parts.stats, stats)):
        here, there = flatten(mine), flatten(given)
        wrong = [f"no {path}" for path in here if path not in there] + [f"{p} too many" for p in there if p not in here]
        wrong += [
            f"{path} {tuple(there[path].shape)}, expected {tuple(here[path].shape)}"
            for path in here
            if path in there and tuple(there[path].shape) != tuple(here[path].shape)
        ]
        if wrong:
            more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            raise CheckpointError(f"state: {kind} values of another model: {', '.join(wrong[:4])}{more}")
    return parts.merge(trainable, parts.frozen, stats)
