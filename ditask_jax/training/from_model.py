"""Training a model that was put together by hand: its facts go into the configuration, so that a run can be resumed."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from ditask_jax.adapters.record import method_from
from ditask_jax.adapters.wrap import make_plan
from ditask_jax.errors import ConfigError
from ditask_jax.model import MultiTaskModel, create_model
from ditask_jax.nn.state import split_state
from ditask_jax.tasks import Task
from ditask_jax.tasks.base import check_task
from ditask_jax.training.build import Experiment, build_tasks


def experiment_from(model: MultiTaskModel, tasks: Sequence[Task], config: ConfigDict) -> Experiment:
    """The experiment of a wrapped model. Where configuration and model differ, the model wins.

    Args:
      model: from `create_model`, wrapped.
      tasks: what it was created for.
      config: data, optimiser and the rest.

    Raises:
      ConfigError: the model is not wrapped, or a run folder could not tell how to build it again.
    """
    if model.recipe is None or model.adapted is None:
        raise ConfigError("trainer: the model is not wrapped; take one from create_model and wrap(model, method) first")
    config = _describe(model, config)
    _check_tasks(model, tasks, config)
    for task in tasks:
        check_task(task)
    if model.pretrained is None and model.recipe.seed != config.seed:
        raise ConfigError(
            f"trainer: the model started from random weights of seed {model.recipe.seed}, but config.seed is "
            f"{config.seed}: the run could not be resumed. Use the same seed, or load_backbone"
        )
    recipe = model.recipe
    empty = create_model(
        recipe.backbone,
        tasks,
        recipe.image_size,
        recipe.head,
        recipe.widths,
        recipe.drop_path_rate,
        abstract=True,
        taps=recipe.taps,
    )
    method = method_from(model.adapted)
    plan = make_plan(empty, method, model.adapted.examples)
    resumed = make_plan(empty, method, config.batch_size)
    if [layer.execution for layer in plan.layers] != [layer.execution for layer in resumed.layers]:
        raise ConfigError(
            f"trainer: the model was wrapped for steps of {model.adapted.examples} images, which computes products in "
            f"other ways than steps of {config.batch_size}: wrap(model, method, examples={config.batch_size})"
        )
    return Experiment(config, tuple(tasks), model, plan, split_state(model))


def _describe(model: MultiTaskModel, config: ConfigDict) -> ConfigDict:
    """The configuration with the model's facts in place of its own."""
    recipe = model.recipe
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.tasks = "+".join(name for name, _ in recipe.tasks)
        height, width = recipe.image_size
        config.image_size = height if height == width else (height, width)
        config.backbone.name = recipe.backbone
        config.backbone.weights = model.pretrained.path if model.pretrained else None
        config.backbone.drop_path_rate = recipe.drop_path_rate
        config.backbone.taps = recipe.taps
        config.head.name = recipe.head
        config.head.widths = tuple(recipe.widths)
        config.method.name = model.adapted.method
        method = method_from(model.adapted)
        for field in dataclasses.fields(method):
            name = method.config_names.get(field.name, field.name)
            if name in config.method:
                config.method[name] = _as_config(getattr(method, field.name))
    return config.lock()


def _as_config(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return ConfigDict(json.loads(json.dumps(value, default=list, allow_nan=False)))


def _check_tasks(model: MultiTaskModel, tasks: Sequence[Task], config: ConfigDict) -> None:
    given = tuple((task.name, task.num_outputs) for task in tasks)
    if given != model.recipe.tasks:
        raise ConfigError(f"trainer: the model was created for tasks {model.recipe.tasks}, got {given}")
    known = tuple((task.name, task.num_outputs) for task in build_tasks(config))
    if known != given:
        raise ConfigError(
            f"trainer: config.data.name '{config.data.name}' gives tasks {known}, the model has {given}; "
            "create it with tasks(..., dataset=...) of the configuration's data set"
        )
