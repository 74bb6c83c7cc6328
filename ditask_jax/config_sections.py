"""Every field of a configuration: its section, type, default, rule and meaning, each in one place.

The defaults are PASCAL-Context as published, but for learning rates and what trains beside adapters (`recipe`). The
options of a method and of a head are declared by themselves (`ditask_jax.adapters.methods`, `ditask_jax.heads`):
`method.name` and `head.name` decide which fields their sections have. `python -m ditask_jax.describe --options` prints
all of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ditask_jax.config_data import DataSection
from ditask_jax.errors import ConfigError
from ditask_jax.options import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    SHA256,
    Rule,
    by_group,
    integer,
    is_integer,
    is_number,
    number,
    one_of,
    option,
    options_of,
    pair,
    rising,
    several,
)


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, tuple | list) else (value, value)
    return len(sides) == 2 and all(is_integer(side) and 1 <= side <= 2**16 for side in sides)


def _are_names(value: Any) -> bool:
    pairs = value.items() if hasattr(value, "items") else ()
    return len(pairs) > 0 and all(isinstance(name, str) for pair in pairs for name in pair)


@dataclasses.dataclass(frozen=True)
class GeneralSection:
    """Tasks, sizes, length of training, precision."""

    tasks: str = option(
        "semseg+human_parts+sal+normals",
        'Tasks joined by "+"; built in: semseg human_parts sal normals depth edge (which ones depends on data.name); '
        "task.NAME.kind declares others.",
    )
    image_size: int | tuple[int, int] = option(
        448,
        "Pixels of a side, or (height, width); must suit the backbone's patches and windows.",
        Rule("pixels of a side, or height,width (for example 448 or 448,320)", _is_size),
    )
    batch_size: int = option(32, "Images per optimiser step over all devices and processes.", integer(1))
    eval_batch_size: int | None = option(
        None, "Images per evaluation step over all devices; none: batch_size.", integer(1)
    )
    seed: int = option(0, "All randomness of a run is a function of this seed and a step or example.", integer(0))
    total_epochs: float | None = option(None, "Length of training in passes over the training set.", POSITIVE)
    total_steps: int | None = option(None, "Length of training in optimiser steps; wins over total_epochs.", integer(1))
    eval_every_epochs: float | None = option(
        None, "Epochs between evaluations during training; none: evaluate at the end alone.", POSITIVE
    )
    eval_every_steps: int | None = option(
        None, "Steps between evaluations during training; wins over eval_every_epochs.", integer(1)
    )
    checkpoint_every_steps: int | None = option(
        500, "Steps between checkpoints; none: only at the end and when preempted.", integer(1)
    )
    recipe: str = option(
        "measured",
        "What fields mean that are left at none: optimizer.rates and method.unfrozen. measured: what was best for the "
        "method (docs/rates.md); published: one learning rate, and every group of method.unfrozen trains.",
        one_of("measured", "published"),
    )
    eval_resolution: str = option(
        "network",
        "Score at the network's resolution (labels resized to it, as published) or at the labels' original one.",
        one_of("network", "original"),
    )
    log_every_steps: int = option(
        50, "Steps between printed lines of progress (metrics.jsonl has a row for every step).", integer(1)
    )
    compute_dtype: str = option(
        "float32",
        "Type of activations in the forward pass; parameters, SVD and warps stay float32.",
        one_of("float32", "bfloat16"),
    )
    remat: str = option(
        "none",
        'What the backward pass recomputes to save memory: nothing, "dots" (all of a block but matrix products) or '
        '"blocks" (whole blocks from their inputs).',
        one_of("none", "dots", "blocks"),
    )
    on_nonfinite: str = option(
        "stop",
        'A loss or gradient that is NaN or infinite: "stop" (saves the batch and says where) or "skip" (parameters '
        "stay as they were; the step is counted in metrics.jsonl).",
        one_of("stop", "skip"),
    )

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises ConfigError for fields that do not fit together."""
        if config.total_steps is None and config.total_epochs is None:
            raise ConfigError(
                "config: total_steps: got None, and total_epochs too; set one, for example --config.total_steps=1000"
            )


@dataclasses.dataclass(frozen=True)
class TaskSection:
    """Fields by task, task.NAME.FIELD: the weight of its loss, and of labels of your own (folder) what they are."""


@dataclasses.dataclass(frozen=True)
class BackboneSection:
    """The backbone and its pretrained weights."""

    name: str = option(
        "swin_tiny_patch4_window7",
        "swin_tiny_patch4_window7, pvt_small, pvt_v2_b2, vit_base_patch16, vit_small_patch14_dinov2, "
        "vit_small_patch16_dinov3 and their sisters (`list_models()`).",
    )
    weights: str | None = option(
        None,
        "Pretrained weights: a file, converted where it is of another code base; hf://OWNER/REPO[@REVISION][/FILE]; "
        '"embedded" for the small ones in the package; none: random.',
        path=True,
        hub=True,
    )
    weights_resolved: str | None = option(
        None,
        "Commit and file that an hf:// address led to: training records it, and goes on with it when the branch has "
        "moved; none: what is newest.",
    )
    weights_sha256: str | None = option(
        None,
        "SHA-256 of the weights as given or fetched; others are refused. Training records it of an hf:// address.",
        SHA256,
    )
    drop_path_rate: float = option(
        0.2, "Stochastic depth rate of the last block; earlier blocks rise linearly from 0.", RATE
    )
    taps: tuple[int, ...] | None = option(
        None,
        "ViT: blocks behind which features are read, rising, the last one among them; none: four, equally spaced.",
        several("numbers of blocks from 0 up", lambda x: is_integer(x) and x >= 0),
    )


@dataclasses.dataclass(frozen=True)
class HeadSection:
    """Decoders; the options are those of the heads that are named."""

    name: str = option(
        "hrnet",
        "Decoder: hrnet or dpt for maps, linear for maps or a class of the image; tasks that it does not serve have "
        "the default of their kind.",
    )
    per_task: Mapping[str, str] | None = option(
        None,
        "Decoders of single tasks, {'depth': 'my_head'}; none: head.name for all.",
        Rule("heads by task ({'classification': 'linear'})", _are_names),
    )


@dataclasses.dataclass(frozen=True)
class MethodSection:
    """How the backbone is fine-tuned; the options of a method depend on its name."""

    name: str = option(
        "ditask",
        "ditask (transformed singular values), svf (free singular values), lora, mtlora, dora, adapter (bottlenecks), "
        "bitfit (biases), norm (norms), full (all weights), frozen (decoders only); docs/methods.md describes them.",
    )


@dataclasses.dataclass(frozen=True)
class OptimizerSection:
    """Optimiser and schedule. Learning rates are per 512 images: effective are these times batch_size / 512."""

    name: str = option("adamw", "Optimiser.", one_of("adamw", "sgd"))
    learning_rate: float = option(5e-4, "Base learning rate per 512 images.", POSITIVE)
    warmup_learning_rate: float = option(5e-7, "First learning rate of the warm-up, per 512 images.", NOT_NEGATIVE)
    min_learning_rate: float = option(5e-6, "Last learning rate of the cosine schedule, per 512 images.", NOT_NEGATIVE)
    rates: Mapping[str, float] | None = option(
        None,
        "Factors on the learning rate by group: adapters (what a method adds), pretrained (what of a backbone trains), "
        "decoders, or part of one, {'adapters:*/theta_depth': 30}: the longest pattern that fits a parameter's path "
        "wins. 1 for groups that are not named. none: as recipe says.",
        by_group("factors above 0 ({'adapters': 30})", lambda factor: is_number(factor) and factor > 0),
    )
    decays: Mapping[str, float] | None = option(
        None,
        "Weight decay by group, as in rates; none, and for groups that are not named: weight_decay.",
        by_group("numbers from 0 up ({'adapters': 0})", lambda decay: is_number(decay) and decay >= 0),
    )
    warmups: Mapping[str, int] | None = option(
        None,
        "Linear warm-up in steps by group, as in rates; none, and for groups that are not named: that of all.",
        by_group("whole numbers from 0 up ({'adapters': 100})", lambda steps: is_integer(steps) and steps >= 0),
    )
    weight_decay: float = option(0.05, "Decoupled weight decay; a step takes off the rate times this.", NOT_NEGATIVE)
    decay_thetas: bool = option(
        True, "Whether weight decay pulls singular values to their pretrained values (ditask, svf), as upstream."
    )
    decay_bias_tables: bool = option(
        True, "Whether weight decay pulls relative-position bias tables to zero, as upstream."
    )
    betas: tuple[float, float] = option(
        (0.9, 0.999),
        "Decay rates of the two moments; sgd uses the first as its momentum.",
        pair("two numbers in [0, 1)", lambda a, b: 0 <= a < 1 and 0 <= b < 1),
    )
    eps: float = option(1e-8, "Added to the root of the second moment.", POSITIVE)
    surgery: str = option(
        "none",
        'Gradients of tasks that conflict: "none" (they add up) or "pcgrad" (each is projected onto the normal plane '
        "of the other; costs one backward pass per task).",
        one_of("none", "pcgrad"),
    )
    accumulate: int = option(
        1,
        "Pieces in which a batch goes through the backbone: less memory, a backbone computed twice, and loss, "
        "gradients and batch statistics of the whole batch. Divides the images of each device.",
        integer(1),
    )
    clip_norm: float | None = option(5.0, "Largest global L2 norm of the gradient; none: no clipping.", POSITIVE)
    schedule: str = option(
        "step", "Learning-rate schedule.", one_of("constant", "cosine", "linear", "multistep", "step")
    )
    warmup_epochs: float = option(20.0, "Linear warm-up in epochs.", NOT_NEGATIVE)
    warmup_steps: int | None = option(None, "Linear warm-up in steps; wins over warmup_epochs.", integer(0))
    warmup_prefix: bool = option(True, "Whether cosine starts counting after the warm-up, or runs underneath it.")
    decay_epochs: float = option(30.0, "step: epochs between multiplications by decay_rate.", POSITIVE)
    decay_steps: int | None = option(None, "step: the same in steps; wins over decay_epochs.", integer(1))
    decay_rate: float = option(0.1, "step, multistep: factor.", number("in (0, 1]", lambda x: 0 < x <= 1))
    milestones: tuple[int | float, ...] = option(
        (),
        "multistep: multiply by decay_rate at these epochs, rising.",
        dataclasses.replace(
            several("epochs above 0, for example 100,200", lambda x: is_number(x) and x > 0, empty=True),
            then=rising("rising epochs"),
        ),
    )
    linear_end_fraction: float = option(0.01, "linear: last rate as a fraction of the base rate.", FRACTION)
    schedule_lag: int = option(
        1,
        "Step n uses schedule(n - lag): 1 as upstream, where steps 0 and 1 share the first rate; 0 for the plain "
        "schedule.",
        Rule("0 or 1", lambda value: is_integer(value) and value in (0, 1)),
    )

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises ConfigError for fields that do not fit together."""
        optimizer = config.optimizer
        if optimizer.schedule == "cosine" and optimizer.min_learning_rate > optimizer.learning_rate:
            raise ConfigError(
                f"config: optimizer.min_learning_rate: {optimizer.min_learning_rate} is above "
                f"optimizer.learning_rate {optimizer.learning_rate}; lower the first"
            )
        if optimizer.schedule == "multistep" and not optimizer.milestones:
            raise ConfigError(
                "config: optimizer.milestones: empty, but optimizer.schedule is multistep; set 100,200 or so"
            )


@dataclasses.dataclass(frozen=True)
class MeshSection:
    """How a step is spread over devices."""

    data: int | None = option(None, "Devices along the batch axis; none: every device there is.", integer(1))
    fsdp: int = option(
        1,
        "Devices that share one copy of the frozen weights, each holding a part: for weights too large to copy. "
        "Divides the number of devices.",
        integer(1),
    )
    statistics: str = option(
        "global",
        'Losses and BatchNorm over the "global" batch, or "per_shard": over the rows of each device (and, with '
        "accumulate, of each piece) alone, then averaged, as distributed PyTorch does without synchronised BatchNorm.",
        one_of("global", "per_shard"),
    )


@dataclasses.dataclass(frozen=True)
class CheckpointSection:
    """Checkpoints that are kept, and fields that may change when a run is resumed."""

    keep: int = option(2, "Newest checkpoints kept.", integer(1))
    best_metric: str | None = option(
        None, 'Also keep the best by this metric, for example "val/delta_m"; none: only the newest.'
    )
    best_mode: str = option("max", "Whether the largest or the smallest value of it is the best.", one_of("max", "min"))
    allow_changed: str | None = option(
        None, "Fields, joined by commas, that may change when a run is resumed, for example total_steps,seed."
    )

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises ConfigError for fields that do not fit together."""
        for name in (config.checkpoint.allow_changed or "").split(","):
            if name.strip().startswith("task."):
                continue  # what is said of a task may be taken back, and has no field then
            value: Any = config
            for part in filter(None, name.strip().split(".")):
                if not isinstance(value, Mapping | ConfigDict) or part not in value:
                    raise ConfigError(f"config: checkpoint.allow_changed: unknown field '{name}'; {LISTED}")
                value = value[part]


@dataclasses.dataclass(frozen=True)
class LoggingSection:
    """Where metrics go besides metrics.jsonl."""

    tensorboard: bool = option(False, "TensorBoard event files in DIR/tensorboard (needs the package tensorboardX).")
    wandb: str = option(
        "off",
        'Weights & Biases: "off", "offline" (files in DIR/wandb, for `wandb sync`) or "online" (needs wandb).',
        one_of("off", "offline", "online"),
    )
    wandb_project: str = option("ditask_jax", "Project of the run at W&B.")
    wandb_name: str | None = option(None, "Name of the run at W&B; none: that of the run's folder.")


LISTED = "python -m ditask_jax.describe --options lists all fields"
# By the name of the section, in the order of listings; the first one stands for the fields at the top.
SECTIONS: dict[str, type] = {
    "": GeneralSection,
    "task": TaskSection,
    "data": DataSection,
    "backbone": BackboneSection,
    "head": HeadSection,
    "method": MethodSection,
    "optimizer": OptimizerSection,
    "mesh": MeshSection,
    "checkpoint": CheckpointSection,
    "logging": LoggingSection,
}
PATHS = tuple(
    f"{section}.{name}" for section, cls in SECTIONS.items() for name, entry in options_of(cls).items() if entry.path
)
"""Fields that hold paths (or, of weights, "embedded"): kept as they were written, and expanded where they are used."""
