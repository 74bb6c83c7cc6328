"""From a configuration, or from a model put together by hand, to tasks, sources, a wrapped model and a schedule."""

import contextlib
import dataclasses
import importlib.resources
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ditask_jax.adapters.method_registry import Method, method_class
from ditask_jax.adapters.plan import Plan
from ditask_jax.adapters.storage import method_from
from ditask_jax.adapters.wrap import make_plan, wrap
from ditask_jax.backbones import backbone_entry, list_models
from ditask_jax.config_fields import make_section, section_options
from ditask_jax.config_tasks import said
from ditask_jax.conversion.obtaining import obtain_weights
from ditask_jax.data import Augmentation, CachedSource, SkippingSource, aside, open_source
from ditask_jax.data.benchmarks import TREES
from ditask_jax.data.declared_labels import DeclaredLabel
from ditask_jax.data.vtab import vtab_task
from ditask_jax.data.wrappers import aside_count
from ditask_jax.errors import ConfigError, WeightsError, defined_in
from ditask_jax.factors import default_cache_dir
from ditask_jax.heads import head_class, heads_of, options_from
from ditask_jax.hub.addresses import HubAddress, is_hub, local_or_hub
from ditask_jax.model import MultiTaskModel, Pretrained, create_model
from ditask_jax.nn.linear import linears
from ditask_jax.nn.state import flatten, map_arrays, split_state
from ditask_jax.tasks import Task, create_tasks
from ditask_jax.tasks.base import check_task
from ditask_jax.tasks.declared import label_facts
from ditask_jax.tasks.task_registry import DATASETS
from ditask_jax.training.optim.group_rates import settled
from ditask_jax.training.resolving import agreed, check_hash, recorded
from ditask_jax.weight_files import some
from ditask_jax.weights import assign, described_images, fit_backbone

# From a configuration to tasks, sources, a wrapped model and a schedule: what every command starts with.


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_tasks(config: ConfigDict) -> tuple[Task, ...]:
    """The tasks of a configuration; unknown names raise ConfigError."""
    # The unit asked of NYUDv2 is that of its files, which are read into metres.
    unit = config.data.depth_unit if config.data.name == "cityscapes" else None
    return create_tasks(config.tasks, config.data.name, _class_counts(config), unit, said(config.get("task", None)))


def declared_labels(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, DeclaredLabel]:
    """How the files of those tasks are read that a configuration declares.

    Args:
      names: of the tasks that are wanted.
      options: by task, what the configuration says (`config_tasks.said`).
    """
    own = [name for name in names if "kind" in options.get(name, {})]
    return {name: DeclaredLabel(**label_facts(name, options[name])) for name in own}


def _class_counts(config: ConfigDict) -> dict[str, int]:
    if config.data.name == "vtab":
        return {"classification": vtab_task(config.data.vtab_task).num_classes}
    asked = {"semseg": config.data.semseg_classes, "human_parts": config.data.human_parts_classes}
    return {name: count for name, count in asked.items() if count is not None}


def build_method(config: ConfigDict) -> Method:
    """The adaptation method of a configuration."""
    config = settled(config)
    cls = method_class(config.method.name)
    method = cls.from_config(config.method)
    if not isinstance(method, Method):
        raise ConfigError(
            f"method '{cls.name}' ({defined_in(cls)}): from_config returned a {type(method).__name__}, expected an "
            "object of the class"
        )
    return method


def build_model(config: ConfigDict, abstract: bool = False) -> MultiTaskModel:
    """A model without adapters and with random weights (or shapes only)."""
    chosen = build_tasks(config)
    heads = heads_of(chosen, config.head.name, config.head.per_task)
    options = options_from(config.head, heads)
    return create_model(
        config.backbone.name,
        chosen,
        config.image_size,
        head=heads,
        widths=options.pop("widths", None) or None,
        drop_path_rate=config.backbone.drop_path_rate,
        seed=config.seed,
        abstract=abstract,
        taps=config.backbone.taps,
        head_options=options,
    )


def weights_path(config: ConfigDict) -> Path | HubAddress | None:
    """Where the pretrained weights of a configuration are; None for random ones.

    On a hub that is the commit and file that a run has recorded, where it has.

    Raises:
      ConfigError: "embedded" asked of a backbone that has no weights in the package.
    """
    asked = config.backbone.weights
    if asked != "embedded":
        where = (is_hub(asked) and config.backbone.get("weights_resolved")) or asked
        return None if asked is None else local_or_hub(where, "config: backbone.weights")
    name = backbone_entry(config.backbone.name).embedded_weights
    if not name:
        raise ConfigError(
            f"config: backbone.weights: '{config.backbone.name}' has no embedded weights; give a .safetensors file"
        )
    return Path(str(importlib.resources.files("ditask_jax") / "weights_data" / name))


def load_backbone(model: MultiTaskModel, path: Path | str, sha256: str | None = None) -> None:
    """Fills the backbone of an unwrapped model from a weight file; the file's classifier is left out.

    Relative-position tables and position embeddings are resized where window or grid differ. The model takes over the
    image statistics that the file names.

    Args:
      model: an unwrapped model.
      path: a file of ours; one of another code base, which is converted once into the user's cache; or the address of
        either on a hub, `hf://OWNER/REPO[@REVISION][/FILE]`.
      sha256: of the file as it is given or fetched, where no other will do.

    Raises:
      WeightsError: missing or damaged file, or one of another architecture or with another hash.
    """
    place = path if isinstance(path, HubAddress) else local_or_hub(path)
    found = obtain_weights(place, model.recipe and model.recipe.backbone)
    arrays, metadata, where = found.arrays, found.metadata, f"weights: '{place}'"
    if sha256 is not None:
        check_hash(found, sha256, where)
    body = {name: a for name, a in arrays.items() if name.startswith("backbone/") and "/adapter/" not in name}
    architecture = metadata.get("architecture", "?")
    if not body:
        raise WeightsError(f"{where} holds no backbone (architecture {architecture})")
    if any(layer.adapter is not None for layer in linears(model.backbone)):
        raise WeightsError(
            f"{where}: the model has adapters already, made for the weights it had; load first, then wrap"
        )
    _check_heads(model, architecture, where)
    image_size, statistics = described_images(metadata, where)
    of = f" (of {architecture})" if model.recipe and model.recipe.backbone != architecture else ""
    assign(model, fit_backbone(model, body, image_size), where + of, prefix="backbone/")
    model.pretrained = Pretrained(str(found.source), metadata["checksum"], found.sha256)
    for name, values in statistics.items():
        setattr(model, name, values)


def load_trained(model: MultiTaskModel, path: Path | str) -> None:
    """Fills what trains of a wrapped model from a converted training checkpoint: adapters, necks, heads, statistics.

    The frozen weights are those of the same file: `load_backbone(model, path)` first, then `wrap`, then this.

    Raises:
      WeightsError: the backbone came from another file, or something is missing or does not fit; all in one message.
    """
    place = local_or_hub(path)
    found = obtain_weights(place, model and model.recipe and model.recipe.backbone)
    arrays, metadata, where = found.arrays, found.metadata, f"weights: '{place}'"
    if model.pretrained is None or model.pretrained.checksum != metadata["checksum"] or model.adapted is None:
        raise WeightsError(f"{where}: call load_backbone with this file and wrap before load_trained")
    parts = split_state(model)
    wanted = flatten(parts.trainable) | flatten(parts.stats)
    image_size, _ = described_images(metadata, where)
    found = {name: array for name, array in fit_backbone(model, arrays, image_size).items() if name in wanted}
    absent = sorted(set(wanted) - set(found))
    idle = sorted(name for name in arrays if name not in wanted and _trains_only(name))
    problems = some("missing", absent) + some("without a place in the model", idle)
    if problems:
        raise WeightsError(f"{where} was not trained as the model is wrapped: {'; '.join(problems)}")
    assign(model, found, where, prefix="necks/")


def _trains_only(name: str) -> bool:
    """Whether an array can only be part of what trains."""
    return "/adapter/" in name or name.startswith(("necks/", "heads/"))


def _check_heads(model: MultiTaskModel, architecture: str, where: str) -> None:
    """Attention heads shape no array, so another number of them would go unnoticed."""
    if architecture not in list_models():
        return
    # A backbone of a user's own need not have any.
    here, there = (getattr(c, "heads", None) for c in (model.backbone.config, backbone_entry(architecture).config))
    if here != there:
        raise WeightsError(f"{where} is of '{architecture}' with {there} attention heads, the model has {here}")


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


def build_experiment(config: ConfigDict, host: bool = False) -> Experiment:
    """Creates, loads and wraps the model of a configuration.

    Args:
      config: the configuration.
      host: make it in the host's memory, where JAX has the CPU among its devices, not on the default device.
    """
    with _on_host() if host else contextlib.nullcontext():
        method = build_method(config)
        for task in build_tasks(config):
            check_task(task)
        model = build_model(config)
        method.check(model.task_names)
        path = weights_path(config)
        if path is not None:
            load_backbone(model, agreed(path), config.backbone.get("weights_sha256"))
            config = recorded(config, model.pretrained)
        plan = wrap(model, method, examples=config.batch_size, seed=config.seed, cache_dir=default_cache_dir())
        return Experiment(config, build_tasks(config), model, plan, split_state(model))


def _on_host() -> contextlib.AbstractContextManager:
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS names others only
        return contextlib.nullcontext()


def moved_to_host(experiment: Experiment) -> Experiment:
    """The same with the model's arrays as NumPy's, so that no device keeps any; the model is changed in place."""
    # Copies: on CPUs an array of NumPy's may be the very memory of JAX's, which would live on as a device's.
    map_arrays(experiment.model, np.array)
    return dataclasses.replace(experiment, parts=split_state(experiment.model))


def describe_plan(config: ConfigDict) -> Plan:
    """The plan of a configuration from shapes alone: nothing is loaded or computed."""
    return make_plan(build_model(config, abstract=True), build_method(config), config.batch_size)


def build_source(config: ConfigDict, split: str):
    """The examples of a split; with `data.held_aside` both are parts of the training split.

    Raises:
      ConfigError, DataError: unknown data set, or files that are missing.
    """
    data = config.data
    opened = "train" if data.held_aside else split
    count = data.train_examples if opened == "train" else data.eval_examples
    skips = data.on_bad_file == "skip"
    chosen = build_tasks(config)
    names = [task.name for task in chosen]
    options = {}
    if data.name == "folder":
        options = {"num_classes": _class_counts(config), "check": not skips}
        options |= {name: data[name] for name in ("val_fraction", "mask_ignore", "depth_unit", "subfolders")}
        options["declared"] = declared_labels(names, said(config.get("task", None)))
    if data.name == "vtab":
        options = {"task": data.vtab_task, "tuning": data.vtab_tuning}
    if data.name in TREES:
        options = {name: data[name] for name in ("layout", "depth_unit", "semseg_classes")}
        options["check"] = not skips
    source = open_source(data.name, opened, names, data.root, config.image_size, count, data.seed, **options)
    if data.name in TREES:
        _check_depth_unit(chosen, source)
        if split == "train":
            for note in source.notes:
                print(f"{data.name}: {note}", file=sys.stderr)
    if data.held_aside:
        source = aside(source, data.held_aside, split == "val", data.eval_examples if split == "val" else None)
    # Scenes are computed, not read: remembering them costs memory once and saves the drawing in every later epoch.
    source = CachedSource(source) if data.name == "scenes" else source
    return SkippingSource(source) if skips else source


def _check_depth_unit(chosen: tuple[Task, ...], source) -> None:
    """A distance in one unit must not be reported in another."""
    units = [task.unit for task in chosen if task.name == "depth"]
    if units and units[0] != source.depth_unit:
        raise ConfigError(
            f"config: data.depth_unit: the depth of these files is in {source.depth_unit}, not in {units[0]}; "
            f"set --config.data.depth_unit={source.depth_unit}"
        )


def build_augmentation(config: ConfigDict) -> Augmentation:
    """The joint augmentation of the training split."""
    data = config.data
    return Augmentation(
        hflip=data.hflip,
        rotation=data.rotation,
        scale=tuple(data.scale),
        scales_are_choices=data.scales_are_choices,
        pad_ignore=data.pad_ignore,
        erode_normals=data.erode_normals,
        ignore_empty_maps=data.ignore_empty_maps,
        compat_uint8_wrap=data.compat_uint8_wrap,
        resize=data.resize,
        fast_warp=data.fast_warp,
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
        count = config.data.train_examples
    elif config.data.name == "vtab" and config.data.vtab_tuning:
        count = 800
    else:
        count = DATASETS[config.data.name].train_examples
    fraction = config.data.held_aside
    return count if count is None or not fraction else count - aside_count(count, fraction)


# Training a model that was put together by hand: its facts go into the configuration, so that a run can be resumed.


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
        head_options=dict(recipe.head_options),
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
        known = said(config.get("task", None))
        declared = {name: known.get(name, {}) | json.loads(text) for name, text in recipe.declared}
        config.task = make_section("task", known | declared)
        height, width = recipe.image_size
        config.image_size = height if height == width else (height, width)
        config.backbone.name = recipe.backbone
        config.backbone.weights = model.pretrained.path if model.pretrained else None
        config.backbone.weights_resolved = config.backbone.weights_sha256 = None
        config.backbone.drop_path_rate = recipe.drop_path_rate
        config.backbone.taps = recipe.taps
        heads = dict(recipe.heads)
        # One name says it all where the other tasks have the default of their kind; of both kinds it is that of maps,
        # whose options the section then has.
        name = next((head for head in heads.values() if head_class(head).is_map), next(iter(heads.values())))
        values = {"name": name, "per_task": None if _same_heads(model, name) else heads}
        options = dict(recipe.head_options) | {"widths": tuple(recipe.widths)}
        known = section_options("head", values)
        config.head = make_section("head", values | {key: value for key, value in options.items() if key in known})
        method = method_from(model.adapted)
        options = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
        config.method = make_section("method", {"name": model.adapted.method, **options})
    return config.lock()


def _same_heads(model: MultiTaskModel, name: str) -> bool:
    kinds = [SimpleNamespace(name=task, is_map=model.heads[task].is_map) for task in model.task_names]
    return heads_of(kinds, name) == dict(model.recipe.heads)


def _check_tasks(model: MultiTaskModel, tasks: Sequence[Task], config: ConfigDict) -> None:
    given = tuple((task.name, task.num_outputs) for task in tasks)
    if given != model.recipe.tasks:
        raise ConfigError(f"trainer: the model was created for tasks {model.recipe.tasks}, got {given}")
    known = tuple((task.name, task.num_outputs) for task in build_tasks(config))
    if known != given:
        raise ConfigError(
            f"trainer: config.data.name '{config.data.name}' gives tasks {known}, the model has {given}; "
            "create it with create_tasks(..., dataset=...) of the configuration's data set"
        )
