"""A trained model without its data: from a run's folder, or from an adapter's folder and the backbone that it was
made on.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ditask_jax.adapters.storage import adapter_groups, load_adapter, method_from_record, read_description
from ditask_jax.adapters.wrap import wrap
from ditask_jax.backbones import backbone_entry
from ditask_jax.errors import CheckpointError, ConfigError, WeightsError
from ditask_jax.factors import default_cache_dir
from ditask_jax.hub.addresses import HubAddress, is_hub
from ditask_jax.model import MultiTaskModel, create_model
from ditask_jax.options import plain
from ditask_jax.tasks import Task, create_tasks
from ditask_jax.tasks.task_registry import dataset_with, has_classes
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.experiment import (
    Experiment,
    build_experiment,
    known_examples,
    load_backbone,
    training_length,
    weights_path,
)
from ditask_jax.training.manifest import fingerprint
from ditask_jax.training.optim.optimizer import make_optimizer
from ditask_jax.training.optim.schedules import make_schedule
from ditask_jax.training.run_folder import RunDir

# A trained model from a run's folder, without its data.


@dataclasses.dataclass(frozen=True)
class Restored:
    """The newest whole checkpoint of a run.

    Attributes:
      experiment: tasks, wrapped model and plan.
      step: optimiser steps it was trained for.
      state: (trainable, stats).
      rejected: (step, reason) of newer checkpoints that were passed over.
    """

    experiment: Experiment
    step: int
    state: tuple
    rejected: tuple[tuple[int, str], ...]


def restore_run(workdir: str | Path, weights: str | Path | None = None) -> Restored:
    """Builds the model of a run and loads its newest whole checkpoint.

    Args:
      workdir: the run's folder.
      weights: the weight file that the run started from, or its address on a hub, where that has moved.

    Raises:
      CheckpointError: no run, no checkpoint, or frozen weights other than it was trained on.
    """
    run = RunDir(workdir)
    config = run.load_config()
    if weights is not None and config.backbone.weights is not None:
        config.backbone.weights = str(weights)
        config.backbone.weights_resolved = config.backbone.weights_sha256 = None
    experiment = build_experiment(config)
    # Only the structure of the optimiser's state matters here, and no schedule's length changes that.
    steps_per_epoch, total_steps = training_length(config, known_examples(config) or config.batch_size)
    schedule = make_schedule(config.optimizer, steps_per_epoch, total_steps, config.batch_size)
    parts = experiment.parts
    opt_state = make_optimizer(config.optimizer, schedule, parts.declared, lambda steps: schedule).init(parts.trainable)
    like = {"trainable": parts.trainable, "opt_state": opt_state, "stats": parts.stats}
    with Checkpointer(run.checkpoints, read_only=True) as checkpointer:
        found = checkpointer.restore_latest_verified(like)
        rejected = tuple(checkpointer.rejected)
    if found is None:
        raise CheckpointError(f"workdir: '{run.path}' holds no checkpoint yet; train first")
    step, state, meta = found
    if meta.get("backbone") != fingerprint(parts.frozen):
        raise CheckpointError(
            f"checkpoint: step {step} in '{run.checkpoints}' was trained on other frozen weights; "
            "put back the weight file it was started with"
        )
    return Restored(experiment, step, (state["trainable"], state["stats"]), rejected)


# A trained model from an adapter's folder and the backbone that it was made on.


def build_adapted(
    folder: str | Path, weights: str | Path | None = None, dataset: str | None = None
) -> tuple[MultiTaskModel, tuple[Task, ...]]:
    """The wrapped model of an adapter, filled, and its tasks; see `Predictor.from_adapter`."""
    body = read_description(folder)
    facts = body["model"]
    size = facts.get("image_size")
    if not isinstance(size, list) or len(size) != 2:
        raise WeightsError(f"adapter: '{folder}' does not say its image size; it was not written by this package")
    chosen = _tasks(facts["tasks"], dataset, facts.get("declared") or {})
    taps = facts.get("taps")
    model = create_model(
        facts["backbone"],
        chosen,
        tuple(size),
        head=facts["head"],
        widths=tuple(facts["widths"]),
        taps=None if taps is None else tuple(taps),
        head_options=facts.get("head_options"),
    )
    if (path := _weights(body, weights, folder)) is not None:
        load_backbone(model, path)
    wrap(model, method_from_record(body["method"]["name"], body["method"]["options"]), cache_dir=default_cache_dir())
    if absent := sorted(set(adapter_groups(model)) - set(body["groups"])):
        raise WeightsError(
            f"adapter: '{folder}' was saved without {', '.join(absent)}, which a prediction needs; "
            'save it with groups="all"'
        )
    load_adapter(folder, model)
    return model, chosen


def _tasks(outputs: Mapping[str, int], dataset: str | None, declared: Mapping[str, Mapping]) -> tuple[Task, ...]:
    """Tasks by name and number of outputs; classes are numbered where neither a data set nor the file names them."""
    counts = {name: count for name, count in outputs.items() if has_classes(name) and name not in declared}
    options = {name: plain(said) for name, said in declared.items()}
    chosen = dataset or ("folder" if declared else dataset_with(list(outputs)))
    return create_tasks(list(outputs), chosen, counts, options=options)


def _weights(body: Mapping[str, Any], asked: str | Path | None, folder: str | Path) -> Path | HubAddress | None:
    """Where the backbone's weights are; None for random ones. Those from a hub are found there again."""
    name, made_on = body["model"]["backbone"], body["backbone"]["file"]
    if asked is None and made_on is not None:
        if is_hub(made_on):
            return HubAddress.parse(made_on)
        if made_on != backbone_entry(name).embedded_weights:
            raise ConfigError(f"adapter: '{folder}' was made on '{made_on}'; say where that is: --weights FILE")
        asked = "embedded"
    return weights_path(ConfigDict({"backbone": {"name": name, "weights": None if asked is None else str(asked)}}))
