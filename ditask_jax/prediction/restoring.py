"""A trained model from an adapter's folder and the backbone that it was made on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ditask_jax.adapters.record import build_method
from ditask_jax.adapters.storage import adapter_groups, load_adapter, read_description
from ditask_jax.adapters.wrap import wrap
from ditask_jax.backbones import backbone_entry
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.factor_cache import default_cache_dir
from ditask_jax.model import MultiTaskModel, create_model
from ditask_jax.tasks import Task, tasks
from ditask_jax.tasks.registry import dataset_with, has_classes
from ditask_jax.training.build import load_backbone, weights_path


def build_adapted(
    folder: str | Path, weights: str | Path | None = None, dataset: str | None = None
) -> tuple[MultiTaskModel, tuple[Task, ...]]:
    """The wrapped model of an adapter, filled, and its tasks; see `Predictor.from_adapter`."""
    body = read_description(folder)
    facts = body["model"]
    size = facts.get("image_size")
    if not isinstance(size, list) or len(size) != 2:
        raise WeightsError(f"adapter: '{folder}' does not say its image size; it was not written by this package")
    chosen = _tasks(facts["tasks"], dataset)
    taps = facts.get("taps")
    model = create_model(
        facts["backbone"],
        chosen,
        tuple(size),
        head=facts["head"],
        widths=tuple(facts["widths"]),
        taps=None if taps is None else tuple(taps),
    )
    if (path := _weights(body, weights, folder)) is not None:
        load_backbone(model, path)
    wrap(model, build_method(body["method"]["name"], body["method"]["options"]), cache_dir=default_cache_dir())
    if absent := sorted(set(adapter_groups(model)) - set(body["groups"])):
        raise WeightsError(
            f"adapter: '{folder}' was saved without {', '.join(absent)}, which a prediction needs; "
            'save it with groups="all"'
        )
    load_adapter(folder, model)
    return model, chosen


def _tasks(outputs: Mapping[str, int], dataset: str | None) -> tuple[Task, ...]:
    """Tasks by name and number of outputs; classes are numbered where no data set names them."""
    counts = {name: count for name, count in outputs.items() if has_classes(name)}
    return tasks(list(outputs), dataset or dataset_with(list(outputs)), counts)


def _weights(body: Mapping[str, Any], asked: str | Path | None, folder: str | Path) -> Path | None:
    """Where the backbone's weights are; None for random ones."""
    name, made_on = body["model"]["backbone"], body["backbone"]["file"]
    if asked is None and made_on is not None:
        if made_on != backbone_entry(name).embedded_weights:
            raise ConfigError(f"adapter: '{folder}' was made on '{made_on}'; say where that is: --weights FILE")
        asked = "embedded"
    return weights_path(ConfigDict({"backbone": {"name": name, "weights": None if asked is None else str(asked)}}))
