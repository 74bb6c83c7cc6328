"""The checks on a configuration that need no model, data set or device: types, ranges, names, combinations."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ditask_jax.errors import ConfigError, check_known
from ditask_jax.files import user_path

_NAMES = {
    "compute_dtype": ("float32", "bfloat16"),
    "eval_resolution": ("network", "original"),
    "remat": ("none", "dots", "blocks"),
    "on_nonfinite": ("stop", "skip"),
    "mesh.statistics": ("global", "per_shard"),
    "checkpoint.best_mode": ("max", "min"),
    "logging.wandb": ("off", "offline", "online"),
    "data.resize": ("cubic", "pillow"),
    "data.on_bad_file": ("stop", "skip"),
    "method.domain": ("value", "index"),
    "method.init": ("identity", "upstream"),
    "method.mode": ("matrix", "matrixv2", "addition"),
    "method.execution": ("auto", "materialised", "factored", "merged"),
    "optimizer.name": ("adamw", "sgd"),
    "optimizer.surgery": ("none", "pcgrad"),
    "optimizer.schedule": ("constant", "cosine", "linear", "multistep", "step"),
}
NONE_IS_A_NAME = frozenset(name for name, known in _NAMES.items() if "none" in known)
"""Fields of which `none` is a value like others: it does not unset them."""
_OPTIONAL_NAMES = {
    "data.layout": ("astmt", "vandenhende", "atrc", "official", "mtan"),
    "data.depth_unit": ("metres", "millimetres", "pixels", "inverse"),
}
_TEXTS = ("tasks", "data.name", "backbone.name", "head.name", "method.name", "logging.wandb_project")
_OPTIONAL_TEXTS = (
    "data.root",
    "data.vtab_task",
    "backbone.weights",
    "checkpoint.best_metric",
    "checkpoint.allow_changed",
    "logging.wandb_name",
)
PATHS = ("data.root", "backbone.weights")
"""Fields that hold paths (or, of weights, "embedded"): kept as they were written, and expanded where they are used."""
_BOOLS = (
    "method.train_scales",
    "data.scales_are_choices",
    "data.pad_ignore",
    "data.ignore_empty_maps",
    "data.compat_uint8_wrap",
    "data.fast_warp",
    "data.vtab_tuning",
    "optimizer.decay_thetas",
    "optimizer.decay_bias_tables",
    "optimizer.warmup_prefix",
    "logging.tensorboard",
)
_OPTIONAL_BOOLS = ("data.mask_ignore", "data.subfolders")
# Integers: name -> (lowest, may be None).
_INTEGERS = {
    "batch_size": (1, False),
    "eval_batch_size": (1, True),
    "seed": (0, False),
    "total_steps": (1, True),
    "eval_every_steps": (1, True),
    "checkpoint_every_steps": (1, True),
    "log_every_steps": (1, False),
    "data.train_examples": (1, True),
    "data.eval_examples": (1, True),
    "data.semseg_classes": (2, True),
    "data.human_parts_classes": (2, True),
    "data.seed": (0, False),
    "data.erode_normals": (0, False),
    "data.workers": (0, False),
    "data.threads": (1, False),
    "method.task_blocks": (1, False),
    "optimizer.warmup_steps": (0, True),
    "optimizer.decay_steps": (1, True),
    "optimizer.accumulate": (1, False),
    "mesh.data": (1, True),
    "mesh.fsdp": (1, False),
    "checkpoint.keep": (1, False),
}
# Numbers that may differ by stage (and by task): name -> (lowest whole number or None for any number, by task too).
_BY_STAGE = {
    "method.shared_cells": (2, False),
    "method.task_cells": (2, True),
    "method.shared_rank": (1, False),
    "method.task_rank": (1, True),
    "method.shared_scale": (None, False),
    "method.task_scale": (None, True),
    "method.bottleneck": (1, False),
}
# Numbers: name -> (condition in words, condition, may be None).
_POSITIVE = ("above 0", lambda x: x > 0)
_NOT_NEGATIVE = ("at least 0", lambda x: x >= 0)
_RATE = ("in [0, 1)", lambda x: 0 <= x < 1)
_FRACTION = ("in [0, 1]", lambda x: 0 <= x <= 1)
_NUMBERS: dict[str, tuple[str, Callable[[float], bool], bool]] = {
    "total_epochs": (*_POSITIVE, True),
    "eval_every_epochs": (*_POSITIVE, True),
    "data.hflip": (*_FRACTION, False),
    "data.rotation": ("of degrees in [0, 180]", lambda x: 0 <= x <= 180, False),
    "data.stall_seconds": (*_POSITIVE, True),
    "data.val_fraction": ("in (0, 1)", lambda x: 0 < x < 1, True),
    "backbone.drop_path_rate": (*_RATE, False),
    "method.headroom": ("at least 1", lambda x: x >= 1, False),
    "method.dropout": (*_RATE, False),
    "optimizer.learning_rate": (*_POSITIVE, False),
    "optimizer.warmup_learning_rate": (*_NOT_NEGATIVE, False),
    "optimizer.min_learning_rate": (*_NOT_NEGATIVE, False),
    "optimizer.weight_decay": (*_NOT_NEGATIVE, False),
    "optimizer.eps": (*_POSITIVE, False),
    "optimizer.clip_norm": (*_POSITIVE, True),
    "optimizer.warmup_epochs": (*_NOT_NEGATIVE, False),
    "optimizer.decay_epochs": (*_POSITIVE, False),
    "optimizer.decay_rate": ("in (0, 1]", lambda x: 0 < x <= 1, False),
    "optimizer.linear_end_fraction": (*_FRACTION, False),
}


def validate(config: ConfigDict) -> None:
    """Checks a configuration before anything is built.

    Names of tasks, backbones, heads, methods and data sets are checked where they are looked up.

    Raises:
        ConfigError: The first thing wrong, as `config: FIELD: got ..., expected ...`.

    >>> import configs.base
    >>> config = configs.base.get_config()
    >>> config.total_steps = 100
    >>> validate(config)
    >>> config.method.headroom = 0.5
    >>> validate(config)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: method.headroom: got 0.5, expected a number at least 1
    """
    for name in (*_TEXTS, *_NAMES):
        value = _get(config, name)
        if not isinstance(value, str) or not value.strip():
            raise _wrong(name, value, "a name")
    for name in _OPTIONAL_TEXTS:
        value = _get(config, name)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise _wrong(name, value, "a text or none")
    for name in PATHS:
        if _get(config, name) is not None:
            user_path(_get(config, name), f"config: {name}")
    for name, known in _NAMES.items():
        check_known(f"config: {name}", _get(config, name), known)
    for name, known in _OPTIONAL_NAMES.items():
        if _get(config, name) is not None:
            check_known(f"config: {name}", _get(config, name), known)
    for name in _BOOLS:
        if not isinstance(_get(config, name), bool):
            raise _wrong(name, _get(config, name), "true or false")
    for name in _OPTIONAL_BOOLS:
        if not isinstance(_get(config, name), bool | None):
            raise _wrong(name, _get(config, name), "true, false or none")
    for name, (lowest, optional) in _INTEGERS.items():
        _check_integer(name, _get(config, name), lowest, optional)
    for name, (words, holds, optional) in _NUMBERS.items():
        value = _get(config, name)
        if not (value is None and optional) and not (_is_number(value) and holds(value)):
            raise _wrong(name, value, f"a number {words}{' or none' if optional else ''}")
    for name, (lowest, by_task) in _BY_STAGE.items():
        _check_by_stage(name, _get(config, name), lowest, by_task)
    _check_image_size(config.image_size)
    _check_data(config.data)
    _check_method(config.method)
    _check_optimizer(config.optimizer)
    _check_taps(config.backbone)
    _check_head(config.head)
    _check_allowed(config)
    if config.total_steps is None and config.total_epochs is None:
        raise ConfigError(
            "config: total_steps: got None, and total_epochs too; set one, for example --config.total_steps=1000"
        )


def _get(config: ConfigDict, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, Mapping | ConfigDict) or part not in value:
            raise ConfigError(f"config: {name}: missing; start from configs/base.py, which holds every field")
        value = value[part]
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"config: {name}: got {value!r}, expected {expected}")


def _check_integer(name: str, value: Any, lowest: int, optional: bool) -> None:
    if value is None and optional:
        return
    if not _is_integer(value) or value < lowest or value >= 2**31:
        raise _wrong(name, value, f"an integer from {lowest} up{' or none' if optional else ''}")


def _check_image_size(size: Any) -> None:
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(_is_integer(side) and 1 <= side <= 2**16 for side in pair):
        raise _wrong("image_size", size, "pixels of a side, or height,width (for example 448 or 448,320)")


def _check_pair(name: str, value: Any, words: str, holds: Callable[[float, float], bool]) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(_is_number, value)) or not holds(*value):
        raise _wrong(name, value, words)


def _check_data(data: ConfigDict) -> None:
    scale = _get(data, "scale")
    if not data.scales_are_choices:
        _check_pair("data.scale", scale, "low,high with 0 < low <= high", lambda low, high: 0 < low <= high)
    elif not isinstance(scale, tuple | list) or not scale or not all(_is_number(s) and s > 0 for s in scale):
        raise _wrong("data.scale", scale, "one or more zoom factors above 0")
    if data.name == "folder" and data.root is None:
        raise ConfigError("config: data.root: got None, expected the folder of your images; set --config.data.root=DIR")


def _check_by_stage(name: str, value: Any, lowest: int | None, by_task: bool) -> None:
    words = "a number" if lowest is None else f"an integer from {lowest} up"
    words += ", one per stage (4,4,8,8)" + (", or either by task ({'semseg': 4})" if by_task else "")
    entries = [value]
    if by_task and isinstance(value, Mapping | ConfigDict):
        entries = [value[task] for task in value]
        if not entries or not all(isinstance(task, str) for task in value):
            raise _wrong(name, _shown(value), words)
    for entry in entries:
        numbers = entry if isinstance(entry, tuple | list) else [entry]
        good = _is_number if lowest is None else lambda n: _is_integer(n) and lowest <= n < 2**31
        if not numbers or not all(map(good, numbers)):
            raise _wrong(name, _shown(value), words)


def _shown(value: Any) -> Any:
    return dict(value.items()) if isinstance(value, ConfigDict) else value


def _check_method(method: ConfigDict) -> None:
    names = {"unfrozen": "groups of weights such as norms,reduction, or nothing"}
    for name in ("shared_layers", "task_layers", "unfrozen"):
        layers = _get(method, name)
        if not isinstance(layers, tuple | list) or not all(isinstance(layer, str) for layer in layers):
            words = names.get(name, "names of layers such as qkv,proj,fc1,fc2, or nothing")
            raise _wrong(f"method.{name}", layers, words)
        if len(set(layers)) != len(layers):
            raise _wrong(f"method.{name}", layers, f"each {'group' if name in names else 'layer'} once")


def _check_optimizer(optimizer: ConfigDict) -> None:
    _check_pair("optimizer.betas", optimizer.betas, "two numbers in [0, 1)", lambda a, b: 0 <= a < 1 and 0 <= b < 1)
    if optimizer.schedule_lag not in (0, 1) or not _is_integer(optimizer.schedule_lag):
        raise _wrong("optimizer.schedule_lag", optimizer.schedule_lag, "0 or 1")
    if optimizer.schedule == "cosine" and optimizer.min_learning_rate > optimizer.learning_rate:
        raise ConfigError(
            f"config: optimizer.min_learning_rate: {optimizer.min_learning_rate} is above "
            f"optimizer.learning_rate {optimizer.learning_rate}; lower the first"
        )
    stones = optimizer.milestones
    if not isinstance(stones, tuple | list) or not all(_is_number(stone) and stone > 0 for stone in stones):
        raise _wrong("optimizer.milestones", stones, "epochs above 0, for example 100,200")
    if any(left >= right for left, right in itertools.pairwise(stones)):
        raise _wrong("optimizer.milestones", stones, "rising epochs")
    if optimizer.schedule == "multistep" and not stones:
        raise ConfigError("config: optimizer.milestones: empty, but optimizer.schedule is multistep; set 100,200 or so")


def _check_allowed(config: ConfigDict) -> None:
    for name in (config.checkpoint.allow_changed or "").split(","):
        value: Any = config
        for part in filter(None, name.strip().split(".")):
            if not isinstance(value, Mapping | ConfigDict) or part not in value:
                raise ConfigError(f"config: checkpoint.allow_changed: unknown field '{name}'; see configs/base.py")
            value = value[part]


def _check_taps(backbone: ConfigDict) -> None:
    taps = _get(backbone, "taps")
    if taps is not None and (
        not isinstance(taps, tuple | list) or not taps or not all(_is_integer(tap) and tap >= 0 for tap in taps)
    ):
        raise _wrong("backbone.taps", taps, "numbers of blocks from 0 up, or none")


def _check_head(head: ConfigDict) -> None:
    heads = _get(head, "per_task")
    by_task = isinstance(heads, Mapping | ConfigDict) and len(heads) > 0
    if heads is not None and not (by_task and all(isinstance(name, str) for pair in heads.items() for name in pair)):
        raise _wrong("head.per_task", _shown(heads), "heads by task ({'classification': 'linear'}), or none")
    widths = _get(head, "widths")
    if widths is not None and (
        not isinstance(widths, tuple | list) or not widths or not all(_is_integer(w) and w > 0 for w in widths)
    ):
        raise _wrong("head.widths", widths, "channels per stage above 0, or none")
