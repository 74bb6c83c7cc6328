"""Putting a training state into a module, whatever shape the state was handed over in."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from ditask_jax.errors import CheckpointError
from ditask_jax.nn.state import ModelState, flatten, split_state


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
