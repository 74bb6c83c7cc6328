"""Files of weights as arrays by name, and the options that the commands of conversion share."""

import dataclasses
import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ditask_jax.conversion.layout_registry import LAYOUTS
from ditask_jax.conversion.pickles import is_tensor, load_pickle, plain_text, to_numpy
from ditask_jax.errors import ConfigError, DitaskError, WeightsError, check_known, did_you_mean
from ditask_jax.files import user_path
from ditask_jax.hub.addresses import is_hub, sha256_of
from ditask_jax.weight_files import (
    INDEX,
    INDEX_SUFFIX,
    PYTORCH,
    SAFETENSORS,
    file_kind,
    read_sharded,
    read_tensors,
)

# Reading the options that the commands of conversion share.


SUFFIX = ".safetensors"


def image_size(text: str | None, command: str) -> tuple[int, int] | None:
    """`"224"` or `"224,320"` as (height, width); None stays None.

    >>> image_size("224", "convert"), image_size("224,320", "convert")
    ((224, 224), (224, 320))
    """
    if text is None:
        return None
    sides = text.split(",")
    if len(sides) > 2 or not all(side.strip().isdecimal() and len(side) < 6 and int(side) > 0 for side in sides):
        raise ConfigError(f"{command}: --image-size: got '{text}', expected a side in pixels, or HEIGHT,WIDTH")
    return int(sides[0]), int(sides[-1])


def printable(text: str) -> str:
    r"""A name out of a foreign file, fit to be shown and stored: line breaks, escapes and the like are spelled out.

    >>> print(printable("layers.0"), printable("a\nb"))
    layers.0 a\nb
    """
    return text if text.isprintable() else text.encode("unicode_escape").decode()


PROGRAMS = {"stablehlo": ".stablehlo", "onnx": ".onnx"}
"""Kinds of programs, and what their files' names end in."""


def check_program(kind: str, error: type[DitaskError] = ConfigError) -> None:
    """Raises `error` for a kind of program that is unknown, or needs a package that is not here."""
    check_known("export: --program", kind, PROGRAMS, error)
    if kind == "onnx" and importlib.util.find_spec("jax2onnx") is None:
        raise error(
            "export: --program=onnx: the package jax2onnx is not installed; it brings many others, so make an "
            "environment of its own for this package and run pip install 'jax2onnx==0.13.0' there, or write StableHLO"
        )


def output_path(text: str, command: str, suffix: str = SUFFIX, source: str | None = None) -> Path:
    """The file to write, its suffix checked; it may not be the source, nor a folder."""
    path = user_path(text)
    if path.suffix != suffix:
        raise ConfigError(f"{command}: '{text}': expected a file name that ends in {suffix}")
    if path.is_dir():
        raise ConfigError(f"{command}: '{text}' is a folder; give a file name in it")
    origin = None if source is None or is_hub(source) else user_path(source)
    if origin is not None and path.exists() and origin.exists() and path.samefile(origin):
        raise ConfigError(f"{command}: '{text}' is the source itself; write to another file")
    return path


def channels(text: str | None, option: str, positive: bool = False) -> tuple[float, float, float] | None:
    """`"0.485,0.456,0.406"` as numbers per colour channel; None stays None.

    >>> channels("0.5,0.5,0.5", "--mean")
    (0.5, 0.5, 0.5)
    """
    if text is None:
        return None
    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(math.isfinite(v) and (v > 0 or not positive) for v in values):
        kind = " above 0" if positive else ""
        raise ConfigError(f"convert: {option}: got '{text}', expected three numbers{kind}, as in 0.485,0.456,0.406")
    return values


# Foreign weight files: their tensors under their own names, whatever container holds them.


PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
# Where training programs put the weights, best first; a running average, by whatever name, comes after all of them.
_CONTAINERS = (
    *("model", "state_dict", "model_state_dict", "module", "net", "network", "params", "weights"),
    *("backbone", "encoder", "image_encoder", "visual", "teacher", "student", "head"),
)
_AVERAGE = re.compile(
    r"(?:^|[^a-z])(?:ema|swa|avg|shadow|averaged?|polyak|momentum)(?:[^a-z]|$)|EMA|SWA|(?:Ema|Swa|Avg)(?![a-z])"
)
_TRAINING_STATE = re.compile(
    r"optim(?!al|i[sz]ed)|sched|scaler|^amp$|rng|^loss|^hyper_parameters$|callbacks", re.IGNORECASE
)
_DEEPEST = 6  # containers inside containers
# How often a number of a file may be used.
_MOST_SHARING = 8
# What PyTorch's wrappers put into names, anywhere; no layout has a part of such a name.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What the names of parts of weights in several files end in.
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
_TRAINING = "not weights but the state of a training run"
_OTHER = "another set of weights"


@dataclasses.dataclass(frozen=True)
class Source:
    """A foreign file.

    Attributes:
      path: where it is.
      sha256: of its bytes.
      arrays: its tensors.
      ignored: (name, reason) of what is not a weight.
      config: the configuration that a training checkpoint carries, as plain data, or None.
    """

    path: Path
    sha256: str
    arrays: Mapping[str, np.ndarray]
    ignored: tuple[tuple[str, str], ...]
    config: Any = None

    @property
    def where(self) -> str:
        return f"source: '{self.path}'"


def read_source(path: Path | str, state: str | None = None) -> Source:
    """Reads a `.safetensors` file, several with an index, or a PyTorch file without running code of it.

    Args:
      path: the file; what is in it says what it is, its ending only where that does not. Of weights in several files
        their index, or the folder that it lies in.
      state: which of several sets of weights: the name of a container such as "model_ema" (containers inside
        containers are joined by "."), or what the names of its tensors begin with; None: the usual one.

    Raises:
      WeightsError: missing, damaged, of an unknown kind, without tensors, or without the set that was asked for.
    """
    path = user_path(path, "source")
    where = f"source: '{path}'"
    if path.is_dir() and len(indices := sorted(path.glob(f"*{INDEX_SUFFIX}"))) == 1:
        (path,) = indices
        where = f"source: '{path}'"
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix == ".safetensors" or p.suffix in PICKLED)
        raise WeightsError(f"{where} is a folder; give a file of it{': ' + ' '.join(inside[:8]) if inside else ''}")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise WeightsError(f"{where}: no such file. {did_you_mean(path.name, near[:20])}")
    kind = file_kind(path)
    if kind not in (None, PYTORCH, SAFETENSORS, INDEX):
        raise WeightsError(f"{where} is {kind}; expected a .safetensors file or one of PyTorch")
    config, ignored, asked, containers = None, [], state, ()
    if kind == INDEX:
        arrays = read_sharded(path, where)
    elif kind == SAFETENSORS or (kind is None and path.suffix == ".safetensors"):
        arrays, metadata = read_tensors(path, where)
        index = _SHARD.sub("", path.name)
        if index != path.name and (path.parent / f"{index}{INDEX_SUFFIX}").is_file():
            raise WeightsError(f"{where} is one of several files; give their index, '{index}{INDEX_SUFFIX}'")
        if metadata.get("format", "").startswith("ditask_jax/"):
            raise WeightsError(f"{where} is a weight file of this package already; use it as it is")
    elif kind == PYTORCH or path.suffix in PICKLED:
        content = load_pickle(path, where)
        containers = find_states(content) if isinstance(content, Mapping) else {}
        arrays, ignored, config, taken = _from_pickle(content, containers, path.stat().st_size, where, state)
        asked = None if taken else state
    else:
        raise WeightsError(f"{where} is of an unknown kind. {did_you_mean(path.suffix, ('.safetensors', *PICKLED))}")
    if not arrays:
        raise WeightsError(f"{where} holds no tensors")
    names, others = plain_names([str(name) for name in arrays], where, asked, [printable(name) for name in containers])
    named = {printable(name): arrays[old] for name, old in sorted(names.items())}
    left_out = (*ignored, *((printable(name), why) for name, why in others.items()))
    return Source(path, sha256_of(path), named, left_out, config)


def find_states(content: Mapping, prefix: str = "", depth: int = 0) -> dict[str, Mapping]:
    """The state dicts in what a file holds, by the names of their containers joined by "."; "" is the content itself.

    A mapping is one if tensors stand right in it. What an optimiser remembers is none.
    """
    found = {}
    if any(isinstance(name, str) and is_tensor(value) for name, value in content.items()):
        found[prefix] = content
    for name, value in content.items() if depth < _DEEPEST else ():
        if isinstance(name, str) and isinstance(value, Mapping) and not _TRAINING_STATE.search(name):
            found |= find_states(value, f"{prefix}.{name}".lstrip("."), depth + 1)
    return found


def choose_state(states: Mapping[str, int], where: str, asked: str | None = None) -> str | None:
    """Which of several state dicts holds the weights.

    Args:
      states: numbers of their tensors by name, as of `find_states`.
      where: the file's name, for errors.
      asked: the whole name, or its end; None: the usual one.

    Returns:
      The name; None where another one was asked for than there is.

    Raises:
      WeightsError: the names do not tell, or several end like that.

    >>> choose_state({"state_dict": 173, "state_dict_ema": 173}, "it")
    'state_dict'
    >>> choose_state({"student.backbone": 150, "student.head": 9, "teacher.backbone": 150}, "it")
    'teacher.backbone'
    >>> choose_state({"student.backbone": 150, "teacher.backbone": 150}, "it", "student")
    'student.backbone'
    """
    if asked is not None:
        parts = asked.split(".")
        fitting = {name: count for name, count in states.items() if name == asked}
        fitting = fitting or {name: n for name, n in states.items() if name.split(".")[-len(parts) :] == parts}
        fitting = fitting or {name: n for name, n in states.items() if name.split(".")[: len(parts)] == parts}
        if not fitting:
            return None
        states = fitting
    # A few tensors beside the weights (a loss, an epoch, a head) are not what is looked for.
    large = [name for name, count in states.items() if 2 * count >= max(states.values())]
    ranks = {name: _rank(name) for name in large}
    best = [name for name in large if ranks[name] == min(ranks.values())]
    if len(best) > 1:
        raise WeightsError(f"{where} holds several sets of weights: {' '.join(best[:8])}; choose one by --state=NAME")
    return best[0]


def _rank(name: str) -> tuple:
    parts = name.split(".") if name else []
    places = [_CONTAINERS.index(part) if part in _CONTAINERS else len(_CONTAINERS) for part in parts]
    return bool(_AVERAGE.search(name)), places


def plain_names(
    names: Sequence[str], where: str, asked: str | None = None, others: Sequence[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """Names as a layout has them, and what does not belong to it.

    Programs wrap models in models: `module.`, `model.`, `backbone.`, `_orig_mod.` and others stand before the names of
    all tensors, in any order. They are taken off until the names are those of a layout. Where a model is only a part of
    what the file holds, the part is found by its names.

    Args:
      names: of the tensors.
      where: the file's name, for errors.
      asked: what the names of the wanted part begin with; None: the usual part.
      others: what could have been asked for besides, for errors.

    Returns:
      The given names by the new ones, and reasons by name of those that are left out.

    Raises:
      WeightsError: several parts are models, and their names do not tell which; or none is the one asked for.

    >>> plain_names(["module.model.a.weight", "module.model.a.bias"], "it")[0]
    {'a.weight': 'module.model.a.weight', 'a.bias': 'module.model.a.bias'}
    """
    short = {_without_wrappers(name): name for name in names}
    if len(short) < len(names):
        short = {name: name for name in names}  # they tell tensors apart
    parts = _parts(short)
    if asked is not None:
        wanted = _without_wrappers(asked) or asked
        fitting = {prefix: part for prefix, part in parts.items() if f".{prefix}.".find(f".{wanted}.") >= 0}
        if not fitting:
            known = " ".join(name for name in dict.fromkeys((*others, *parts)) if name) or "one set, without a name"
            raise WeightsError(f"{where} has no set of weights '{asked}'. Known: {known}")
        parts = fitting
    if not parts:
        return _without_shared(short), {}
    prefix = choose_state({prefix: len(part) for prefix, part in parts.items()}, where)
    inside = set(parts[prefix].values())
    reasons = {}
    for name, old in short.items():
        if old not in inside:
            other = next((p for p in parts if p != prefix and name.startswith(f"{p}.")), None)
            reasons[old] = f"no part of '{prefix}'" if other is None else f"{_OTHER} (--state={other} takes it)"
    return parts[prefix], reasons


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _parts(names: Mapping[str, str], prefix: str = "", depth: int = 0) -> dict[str, dict[str, str]]:
    """Parts of a file whose names, behind a prefix, are those of a layout; the given names by the rest, by prefix."""
    if any(layout.resembles(list(names)) for layout in LAYOUTS):
        return {prefix: dict(names)}
    groups: dict[str, dict[str, str]] = {}
    for name, old in names.items():
        first, dot, rest = name.partition(".")
        if dot and rest:
            groups.setdefault(first, {})[rest] = old
    found = {}
    for first, part in groups.items() if depth < _DEEPEST else ():
        found |= _parts(part, f"{prefix}.{first}".lstrip("."), depth + 1)
    return found


def _without_shared(names: dict[str, str]) -> dict[str, str]:
    """Names without what known containers put before all of them; of no layout, but fit to be shown."""
    while True:
        firsts = {name.partition(".")[0] for name in names}
        if len(firsts) != 1 or not firsts <= set(_CONTAINERS) or any("." not in name for name in names):
            return names
        names = {name.partition(".")[2]: old for name, old in names.items()}


def _from_pickle(
    content: Any, states: Mapping[str, Mapping], size: int, where: str, asked: str | None
) -> tuple[dict[str, np.ndarray], list[tuple[str, str]], Any, bool]:
    """Arrays, what is left out and why, the configuration, and whether a container was what was asked for."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{where} holds a {type(content).__name__}, expected a state dict; save model.state_dict()")
    if not states:
        raise WeightsError(
            f"{where} holds no state dict: entries {' '.join(map(printable, map(str, list(content)[:8])))}. "
            f"Known containers: {' '.join(_CONTAINERS[:8])}"
        )
    counts = {name: sum(map(is_tensor, state.values())) for name, state in states.items()}
    name = choose_state(counts, where, asked)
    taken = asked is not None and name is not None
    if name is None:
        name = choose_state(counts, where)
    config = plain_text(content["config"]) if isinstance(content.get("config"), Mapping) else None
    arrays, ignored = {}, _beside(content, name, states)
    _check_sharing(states[name], size, where)
    for key, value in states[name].items():
        text = printable(str(key))
        if is_tensor(value):
            arrays[text] = to_numpy(text, value, where)
        elif not any(other.startswith(f"{name}.{key}".lstrip(".")) for other in states):
            ignored.append((text, f"not a tensor but a {type(value).__name__}"))
    return arrays, ignored, config, taken


def _beside(content: Mapping, chosen: str, states: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    """(name, reason) of the containers and entries that are left out, from the outermost inwards."""
    ignored = [
        (printable(name), f"{_OTHER} (--state={printable(name)} takes it)")
        for name in states
        if name not in ("", chosen)
    ]
    level, place = content, ""
    for part in chosen.split(".") if chosen else ():
        for key in level:
            name = f"{place}.{key}".lstrip(".")
            if key != part and not any(f"{other}.".startswith(f"{name}.") for other in states):
                ignored.append((printable(name), _TRAINING))
        level, place = level[part], f"{place}.{part}".lstrip(".")
    return ignored


def _check_sharing(state: Mapping[Any, Any], size: int, where: str) -> None:
    """Tied weights are stored once and copied here; thousands of names for the same numbers would fill the memory."""
    claimed = sum(value.numel() * value.element_size() for value in state.values() if is_tensor(value))
    if claimed > _MOST_SHARING * size:
        raise WeightsError(f"{where}: its tensors claim {claimed:,} bytes, more than {_MOST_SHARING} times the file")
