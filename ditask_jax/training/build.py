"""From a configuration to tasks, sources, a wrapped model and a schedule: what every command starts with."""

import dataclasses
import importlib.resources
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from ditask_jax import linalg
from ditask_jax.adapters.plan import Plan
from ditask_jax.adapters.registry import Method, method_class
from ditask_jax.adapters.wrap import make_plan, wrap
from ditask_jax.backbones import backbone_entry
from ditask_jax.data import Augmentation, CachedSource, open_source
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.model import DEFAULT_WIDTHS, MultiTaskModel, create_model
from ditask_jax.nn.state import split_state
from ditask_jax.tasks import Task, tasks
from ditask_jax.tasks.datasets import DATASETS
from ditask_jax.weights import assign, fit_backbone, read_weights

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_tasks(config: ConfigDict) -> tuple[Task, ...]:
    """The tasks of a configuration; unknown names raise ConfigError."""
    return tasks(config.tasks, config.data.name, _class_counts(config))


def _class_counts(config: ConfigDict) -> dict[str, int]:
    asked = {"semseg": config.data.semseg_classes, "human_parts": config.data.human_parts_classes}
    return {name: count for name, count in asked.items() if count is not None}


def build_method(config: ConfigDict) -> Method:
    """The adaptation method of a configuration."""
    return method_class(config.method.name).from_config(config.method)


def build_model(config: ConfigDict, abstract: bool = False) -> MultiTaskModel:
    """A model without adapters and with random weights (or shapes only)."""
    return create_model(
        config.backbone.name,
        build_tasks(config),
        config.image_size,
        head=config.head.name,
        widths=config.head.widths or DEFAULT_WIDTHS,
        drop_path_rate=config.backbone.drop_path_rate,
        seed=config.seed,
        abstract=abstract,
    )


def weights_path(config: ConfigDict) -> Path | None:
    """Where the pretrained weights of a configuration are; None for random ones.

    Raises:
      ConfigError: "embedded" asked of a backbone that has no weights in the package.
    """
    asked = config.backbone.weights
    if asked != "embedded":
        return None if asked is None else Path(asked).expanduser()
    name = backbone_entry(config.backbone.name).embedded_weights
    if not name:
        raise ConfigError(
            f"config: backbone.weights: '{config.backbone.name}' has no embedded weights; give a .safetensors file"
        )
    return Path(str(importlib.resources.files("ditask_jax") / "weights_data" / name))


def load_backbone(model: MultiTaskModel, path: Path | str) -> None:
    """Fills the backbone of an unwrapped model from a weight file; the file's classifier is left out.

    Relative-position tables are resized where the window differs.

    Raises:
      WeightsError: missing or damaged file, or one of another architecture.
    """
    arrays, metadata = read_weights(Path(path))
    body = {name: array for name, array in arrays.items() if name.startswith("backbone/")}
    if not body:
        raise WeightsError(f"weights: '{path}' holds no backbone (architecture {metadata.get('architecture', '?')})")
    assign(model, fit_backbone(model, body), f"weights: '{path}'", prefix="backbone/")


@dataclasses.dataclass
class Experiment:
    """A configuration made real.

    Attributes:
      config: the configuration.
      tasks: its tasks.
      model: the wrapped model.
      plan: what the method attached.
      parts: the model taken apart.
    """

    config: ConfigDict
    tasks: tuple[Task, ...]
    model: MultiTaskModel
    plan: Plan
    parts: Any

    @property
    def dtype(self):
        return DTYPES[self.config.compute_dtype]


def build_experiment(config: ConfigDict) -> Experiment:
    """Creates, loads and wraps the model of a configuration."""
    method = build_method(config)
    model = build_model(config)
    method.check(model.task_names)
    path = weights_path(config)
    if path is not None:
        load_backbone(model, path)
    plan = wrap(model, method, examples=config.batch_size, seed=config.seed, cache_dir=linalg.default_cache_dir())
    return Experiment(config, build_tasks(config), model, plan, split_state(model))


def describe_plan(config: ConfigDict) -> Plan:
    """The plan of a configuration from shapes alone: nothing is loaded or computed."""
    return make_plan(build_model(config, abstract=True), build_method(config), config.batch_size)


def build_source(config: ConfigDict, split: str):
    """The examples of a split.

    Raises:
      ConfigError, DataError: unknown data set, or files that are missing.
    """
    data = config.data
    count = data.train_examples if split == "train" else data.eval_examples
    options = {}
    if data.name == "folder":
        options = {"num_classes": _class_counts(config), "val_fraction": data.val_fraction}
    names = [task.name for task in build_tasks(config)]
    source = open_source(data.name, split, names, data.root, config.image_size, count, data.seed, **options)
    # Scenes are computed, not read: remembering them costs memory once and saves the drawing in every later epoch.
    return CachedSource(source) if data.name == "scenes" else source


def build_augmentation(config: ConfigDict) -> Augmentation:
    """The joint augmentation of the training split."""
    data = config.data
    return Augmentation(
        hflip=data.hflip,
        rotation=data.rotation,
        scale=tuple(data.scale),
        scales_are_choices=data.scales_are_choices,
        pad_ignore=data.pad_ignore,
    )


def training_length(config: ConfigDict, examples: int) -> tuple[int, int]:
    """Optimiser steps of an epoch (a remainder is dropped) and of the whole training."""
    per_epoch = max(examples // config.batch_size, 1)
    if config.total_steps is not None:
        return per_epoch, config.total_steps
    return per_epoch, max(round(config.total_epochs * per_epoch), 1)


def known_examples(config: ConfigDict) -> int | None:
    """Training examples of a configuration without touching its files, None where only the files know."""
    if config.data.train_examples is not None:
        return config.data.train_examples
    return DATASETS[config.data.name].train_examples
