"""A model for some of its tasks: the streams, necks and heads of the others are not computed."""

from collections.abc import Sequence

import numpy as np

from ditask_jax.errors import ConfigError, did_you_mean
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.linear import SHARED, linears
from ditask_jax.nn.state import split_state
from ditask_jax.nn.variables import Frozen


def check_tasks(model: MultiTaskModel, names: Sequence[str]) -> None:
    """Raises ConfigError unless there are names and the model has a task of each."""
    if not names:
        raise ConfigError(f"tasks: none given. Known: {' '.join(model.task_names)}")
    for name in names:
        if name not in model.task_names:
            raise ConfigError(f"tasks: the model was not made for '{name}'. {did_you_mean(name, model.task_names)}")


def for_tasks(model: MultiTaskModel, names: Sequence[str]) -> MultiTaskModel:
    """A copy of a merged model that computes only the named tasks, with the very same outputs for these.

    The shared stream stays, for it leads into the next stage; of the others only those of the named tasks, unless the
    method lets tasks influence each other.

    Args:
      model: from `merge`; adapters that no kernel can stand for may still be in it.
      names: tasks to keep; their order is that of the model.

    Raises:
      ConfigError: a task that the model does not have, or none at all.

    >>> from ditask_jax.tasks import tasks
    >>> from ditask_jax.model import create_model
    >>> model = create_model("swin_test", tasks("semseg+depth", "scenes"), 32, widths=(4, 4, 4, 4))
    >>> for_tasks(model, ["depth"]).task_names
    ('depth',)
    """
    check_tasks(model, names)
    parts = split_state(model)
    smaller = parts.merge(parts.trainable, parts.frozen, parts.stats)
    kept = tuple(name for name in model.task_names if name in names)
    layers = list(linears(smaller.backbone))
    # An adapter that is left and has the tasks' streams joins them (MTLoRA's addition): every task needs all of them.
    joined = any(layer.adapter is not None and layer.adapter.streams_out((SHARED,)) != (SHARED,) for layer in layers)
    for linear in () if joined else layers:
        streams = tuple(stream for stream in linear.merged_streams if stream == SHARED or stream in kept)
        if streams != linear.merged_streams:
            rows = np.array([linear.merged_streams.index(stream) for stream in streams])
            linear.kernel = Frozen(linear.kernel[...][rows])
            linear.merged_streams = streams
    for name in set(model.task_names) - set(kept):
        del smaller.heads[name]
        if name in smaller.necks:
            del smaller.necks[name]
    smaller.task_names = kept
    return smaller
