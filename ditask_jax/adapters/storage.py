"""Adapter files: what trained, and a JSON record of method, model and backbone beside it."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from ditask_jax.adapters.merging import stacked, unstacked
from ditask_jax.adapters.method_registry import Method, method_class
from ditask_jax.adapters.plan import parameter_group
from ditask_jax.errors import ConfigError, WeightsError, check_known, defined_in, did_you_mean, format_number
from ditask_jax.files import atomic_write_json, user_path
from ditask_jax.hub.addresses import HubAddress, local_or_hub
from ditask_jax.hub.transfers import fetch_folder, push_files
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.state import ModelState, filled, flatten, split_state, unflatten
from ditask_jax.weight_files import read_weights, some, write_weights

# What `wrap` did to a model, as plain texts: enough to describe an adapter file and to recognise its backbone.


@dataclasses.dataclass(frozen=True)
class Adapted:
    """The record of a wrapped model.

    Attributes:
      method: name of the method.
      options: its options, as JSON text (a record must be hashable, and options may hold a mapping).
      backbone_hash: `checksum` of the backbone's weights as they were before; see `backbone_weights`.
      examples: images per step that the plan was made for.
    """

    method: str
    options: str
    backbone_hash: str
    examples: int = 1


def method_options(method: Method) -> dict[str, Any]:
    """A method's options as plain data.

    >>> from ditask_jax.adapters.methods.subsets import Full
    >>> method_options(Full())
    {}
    """
    if not dataclasses.is_dataclass(method):
        raise ConfigError(
            f"method '{method.name}' ({defined_in(method)}): write @dataclasses.dataclass(frozen=True) above the "
            "class: its fields are the options that checkpoints and adapter files record"
        )
    try:
        return json.loads(json.dumps(dataclasses.asdict(method), default=list, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"method '{method.name}' ({defined_in(method)}): an option is no plain data ({error}); use numbers, texts, "
            "tuples and dicts"
        ) from None


def method_from(record: Adapted) -> Method:
    """The method that a model was wrapped with."""
    return method_from_record(record.method, json.loads(record.options))


def method_from_record(name: str, options: Mapping[str, Any]) -> Method:
    """A method from plain data.

    Raises:
      WeightsError: it has no such options.
    """
    cls = method_class(name)
    known = {field.name for field in dataclasses.fields(cls)}
    if strange := sorted(set(options) - known):
        raise WeightsError(f"method '{name}' has no option {' '.join(strange)}. Known: {' '.join(sorted(known))}")
    as_tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return cls(**as_tuples)


def backbone_weights(model: MultiTaskModel) -> dict[str, jax.Array]:
    """The weights by whose `checksum` an adapter knows its backbone: all but those that depend on the image size.

    Call it on a model without adapters: these replace some weights by their factors, whose last bits depend on the
    machine.
    """
    sized = set(model.backbone.grid_rows())
    weights = flatten(nnx.to_pure_dict(nnx.state(model.backbone, nnx.Param)))
    return {path: value for path, value in weights.items() if path not in sized}


# Adapters on disk: what a method trained, without the backbone it was trained on.
#
# An adapter is a folder with two files: `adapter.safetensors`, the arrays with a hash each, and `adapter.json`, which
# says what they belong to: method and options, model, backbone (by hash), versions. The arrays inside adapters are
# small and many, so those of one kind lie together in one tensor (`stacking`). Loading is strict: whatever is
# missing, unexpected, damaged or of another method, model or backbone is an error that names it.


FORMAT = "ditask_jax/adapter/2"
# Every array a tensor of its own.
FIRST_FORMAT = "ditask_jax/adapter/1"
ARRAYS, DESCRIPTION = "adapter.safetensors", "adapter.json"
STATISTICS = "statistics"
_CARDS = ("README.md", "MODEL_CARD.md")
# Several groups under one name.
_ALIASES = {"adapters": ("adapter shared", "adapter task")}
# Options that change how a method trains or computes, but no result.
_FREE_OPTIONS = frozenset({"execution", "init", "dropout"})
_PACKAGES = ("jax", "flax", "numpy")
# What loading reads of a description.
_FIELDS = {
    "method.name": str,
    "method.options": dict,
    "model.backbone": str,
    "model.tasks": dict,
    "model.head": str | dict,
    "model.widths": list,
    "backbone.sha256": str,
    "backbone.file": str | None,
    "groups": dict,
    "arrays.checksum": str,
}


def adapter_groups(model: MultiTaskModel) -> dict[str, int]:
    """What an adapter file of a model can hold: numbers by group, in the order of the model.

    >>> from ditask_jax.tasks import create_tasks
    >>> from ditask_jax.model import create_model
    >>> from ditask_jax.adapters import Frozen, wrap
    >>> model = create_model("swin_test", create_tasks("sal", "scenes"), 32, widths=(4, 4, 4, 4))
    >>> plan = wrap(model, Frozen())
    >>> adapter_groups(model)
    {'heads': 1281, 'necks': 704, 'statistics': 128}
    """
    counts: dict[str, int] = {}
    for path, value in _storable(split_state(model)).items():
        counts[_group(path)] = counts.get(_group(path), 0) + int(np.prod(value.shape))
    return counts


def save_adapter(
    path: Path | str,
    model: MultiTaskModel,
    state: Any = None,
    groups: str | Iterable[str] = "all",
    push: str | None = None,
) -> Path:
    """Writes what trains, and the running statistics, to the folder `path`.

    Args:
      path: the folder; it is made, and files of an older adapter in it are replaced.
      model: a wrapped model, not merged.
      state: the values, as `Trainer.fit` returns them; None: the model's own.
      groups: "all", which restores outputs exactly, or names of `adapter_groups(model)` ("adapters" stands for the
        method's own arrays): the rest then stays what the model has when the file is loaded.
      push: `hf://OWNER/REPO[@BRANCH][/FOLDER]`, where the two files are put as well, in one commit, with the folder's
        README.md and MODEL_CARD.md, if any; a repository that does not exist is made, private. The token is that of
        `huggingface_hub` (`HF_TOKEN`).

    Raises:
      WeightsError: the model is not wrapped or already merged, a group is unknown, or the hub refuses the files, which
        are then in the folder all the same.
      CheckpointError: the state belongs to another model.
    """
    path = user_path(path)
    target = None if push is None else HubAddress.parse(push, "adapter: push")
    if path.exists() and not path.is_dir():
        raise WeightsError(f"adapter: '{path}' is a file; give a folder")
    record = _record(model)
    arrays = _storable(split_state(filled(model, state)))
    known = dict.fromkeys(map(_group, arrays))
    chosen = list(known) if groups == "all" else _chosen(groups, known)
    kept = {name: np.asarray(value) for name, value in arrays.items() if _group(name) in chosen}
    tensors, rows = stacked(kept)
    write_weights(path / ARRAYS, tensors, kind=FORMAT, rows=rows)
    checksum = read_weights(path / ARRAYS)[1]["checksum"]
    body = {
        "format": FORMAT,
        "method": {"name": record.method, "options": json.loads(record.options)},
        "model": _model(model),
        "backbone": {"sha256": record.backbone_hash, **_pretrained(model)},
        "groups": {group: _count(kept, group) for group in chosen},
        "arrays": {"count": len(kept), "checksum": checksum},
        "versions": {"ditask_jax": _version()} | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    # Written last: an interrupted save leaves a description of other arrays, which loading notices.
    atomic_write_json(path / DESCRIPTION, body | {"sha256": _hash(body)})
    if target is not None:
        cards = [name for name in _CARDS if (path / name).is_file()]
        push_files(path, (ARRAYS, DESCRIPTION, *cards), target, f"Adapter {record.method} of {model.recipe.backbone}")
    return path


def load_adapter(path: Path | str, model: MultiTaskModel) -> ModelState:
    """Fills a wrapped model from an adapter's folder, all or nothing.

    Args:
      path: the folder, or its address on a hub, `hf://OWNER/REPO[@REVISION][/FOLDER]`.
      model: wrapped with the same method on the same backbone, for the same tasks.

    Returns:
      The model taken apart. Shapes and types are those of every other adapter of the model, so a function compiled for
      one serves all: hand it `.trainable` and `.stats`.

    Raises:
      WeightsError: files missing or damaged, or made for another method, model or backbone; everything is named.
    """
    path = local_or_hub(path)
    files = _files(path)
    body = _described(files[DESCRIPTION], path)
    record = _record(model)
    problems = _differences(body, model, record)
    tensors, metadata = read_weights(files[ARRAYS])
    first = body.get("format", FIRST_FORMAT) == FIRST_FORMAT
    arrays = tensors if first else unstacked(tensors, metadata.get("rows", ""), f"adapter: '{files[ARRAYS]}'")
    if metadata.get("checksum") != body["arrays"]["checksum"]:
        problems.append(f"{ARRAYS} is not the file that {DESCRIPTION} describes")
    known = {name: value for name, value in _storable(split_state(model)).items() if _group(name) in body["groups"]}
    problems += some("missing", sorted(set(known) - set(arrays))) + some("unexpected", sorted(set(arrays) - set(known)))
    problems += some(
        "of another shape or type",
        [
            f"{name} {array.dtype}{list(array.shape)} (expected {known[name].dtype}{list(known[name].shape)})"
            for name, array in arrays.items()
            if name in known and (array.shape != tuple(known[name].shape) or array.dtype != known[name].dtype)
        ],
    )
    if problems:
        raise WeightsError(f"adapter: '{path}' does not fit the model: {'; '.join(problems)}")
    _fill(model, arrays)
    return split_state(model)


def read_description(path: Path | str) -> dict[str, Any]:
    """The description of an adapter's folder, here or on a hub, checked against its own hash.

    Raises:
      WeightsError: missing, damaged, or of another format.
    """
    path = local_or_hub(path)
    return _described(_files(path, (DESCRIPTION,))[DESCRIPTION], path)


def _files(path: Path | HubAddress, names: tuple[str, ...] = (ARRAYS, DESCRIPTION)) -> dict[str, Path]:
    """Files of an adapter by name; from a hub all of one commit."""
    if isinstance(path, HubAddress):
        return fetch_folder(path, names, "adapter")
    if not path.is_dir():
        near = sorted(p.name for p in path.parent.iterdir() if p.is_dir()) if path.parent.is_dir() else []
        raise WeightsError(f"adapter: '{path}' is no folder. {did_you_mean(path.name, near[:20])}")
    return {name: _plain_file(path / name) for name in reversed(names)}


def _described(file: Path, path: Path | HubAddress) -> dict[str, Any]:
    shown = f"{path}/{DESCRIPTION}" if isinstance(path, HubAddress) else file
    try:
        body = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"adapter: '{shown}' cannot be read ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(body, dict) or body.pop("sha256", None) != _hash(body):
        raise WeightsError(f"adapter: '{shown}' is damaged: it does not match its own hash; fetch it again")
    format_number(body.get("format"), FORMAT, f"adapter: '{shown}'", WeightsError)
    for name, kind in _FIELDS.items():
        group, _, field = name.partition(".")
        inner = body.get(group)
        if not isinstance(inner, dict) or (field and not isinstance(inner.get(field), kind)):
            raise WeightsError(f"adapter: '{shown}' has no usable '{name}'; it was not written by this package")
    return body


def _pretrained(model: MultiTaskModel) -> dict[str, str | None]:
    """What an adapter says of the file behind its backbone: its name, or address and commit on a hub; its hash."""
    if model.pretrained is None:
        return {"file": None}
    origin = {"file_sha256": model.pretrained.sha256} if model.pretrained.sha256 else {}
    return {"file": model.pretrained.name} | origin


def _record(model: MultiTaskModel):
    if model.adapted is None or model.recipe is None:
        raise WeightsError("adapter: the model is not wrapped, or merged already; take one from create_model and wrap")
    return model.adapted


def _storable(parts: ModelState) -> dict[str, Any]:
    return flatten(parts.trainable) | {f"{STATISTICS}/{path}": value for path, value in flatten(parts.stats).items()}


def _group(path: str) -> str:
    return STATISTICS if path.startswith(f"{STATISTICS}/") else parameter_group(path)


def _count(arrays: Mapping[str, np.ndarray], group: str) -> dict[str, int]:
    inside = [array for path, array in arrays.items() if _group(path) == group]
    return {"arrays": len(inside), "numbers": sum(array.size for array in inside)}


def _chosen(groups: str | Iterable[str], known: Iterable[str]) -> list[str]:
    known, chosen = list(known), []
    for name in [groups] if isinstance(groups, str) else groups:
        check_known("adapter: groups", name, [*known, *_ALIASES, "all"], WeightsError)
        chosen += [group for group in _ALIASES.get(name, (name,)) if group in known and group not in chosen]
    if not chosen:
        raise WeightsError(f"adapter: groups: nothing of that trains here. Known: {' '.join(known)}")
    return chosen


def _model(model: MultiTaskModel) -> dict[str, Any]:
    recipe, taps = model.recipe, getattr(model.backbone.config, "tapped", None)
    declared = {name: json.loads(text) for name, text in recipe.declared}
    return {
        "backbone": recipe.backbone,
        "tasks": dict(recipe.tasks),
        "image_size": list(recipe.image_size),
        "head": recipe.head,
        "widths": list(recipe.widths),
        "head_options": json.loads(json.dumps(dict(recipe.head_options), allow_nan=False)),
        # Where a ViT is read shapes no array, so other places would go unnoticed.
        "taps": None if taps is None else list(taps),
        # What classes are called, what numbers mean: no code knows that of these tasks.
        **({"declared": declared} if declared else {}),
    }


def _differences(body: Mapping[str, Any], model: MultiTaskModel, record) -> list[str]:
    """What the file says of method, model and backbone and the model has otherwise."""
    problems = []
    if body["method"]["name"] != record.method:
        problems.append(f"method: '{body['method']['name']}' in the file, '{record.method}' in the model")
    else:
        theirs, ours = body["method"]["options"], json.loads(record.options)
        for name in sorted((theirs.keys() | ours.keys()) - _FREE_OPTIONS):
            if theirs.get(name) != ours.get(name):
                problems.append(f"{name}: {theirs.get(name)} in the file, {ours.get(name)} in the model")
    here = _model(model)
    for name in ("backbone", "tasks", "head", "widths", "head_options", "taps"):
        # Files written before taps and options were recorded have none.
        if body["model"].get(name, here[name]) != here[name]:
            problems.append(f"{name}: {body['model'][name]} in the file, {here[name]} in the model")
    if body["backbone"]["sha256"] != record.backbone_hash:
        file = body["backbone"]["file"] or "random weights of another seed"
        problems.append(
            f"backbone: made on {file} (hash {body['backbone']['sha256'][:12]}), the model has other weights "
            f"({record.backbone_hash[:12]}): load that file before wrapping"
        )
    return problems


def _fill(model: MultiTaskModel, arrays: Mapping[str, np.ndarray]) -> None:
    state = nnx.state(model)
    pure = nnx.to_pure_dict(state)
    values = flatten(pure)
    new = {name.removeprefix(f"{STATISTICS}/"): jax.numpy.asarray(array) for name, array in arrays.items()}
    nnx.replace_by_pure_dict(state, unflatten(values | new, pure))
    nnx.update(model, state)


def _plain_file(path: Path) -> Path:
    """The file itself; a link may lead anywhere, and an adapter is a thing that people hand on."""
    if path.is_symlink():
        raise WeightsError(f"adapter: '{path}' is a symbolic link; an adapter's files lie in its folder themselves")
    if not path.is_file():
        raise WeightsError(f"adapter: no file '{path}'; an adapter is a folder with {ARRAYS} and {DESCRIPTION}")
    return path


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _version() -> str:
    import ditask_jax

    return ditask_jax.__version__
