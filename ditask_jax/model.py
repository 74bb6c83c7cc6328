"""Models: a backbone with a neck and a head per task, or with one classifier."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.backbones import backbone_config, backbone_entry, build_backbone
from ditask_jax.backbones.blocks import EVERY_STAGE, Backbone, Taps
from ditask_jax.errors import ConfigError, check_known, defined_in
from ditask_jax.heads import Head, Neck, build_options, head_class, heads_of, option_names
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import Dense, prepare_adapters
from ditask_jax.nn.norm import LayerNorm
from ditask_jax.nn.remat import by_pieces
from ditask_jax.nn.resize import normalise_images, resize_bilinear
from ditask_jax.options import plain

# A multi-task model: one backbone, and per task a head, behind a neck where the head asks for one.


DEFAULT_WIDTHS = (18, 36, 72, 144)


class TaskLike(Protocol):
    """What a model needs to know of a task; `is_map`, True where it is absent, says that its output is a map."""

    name: str
    num_outputs: int


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a model was built from; `create_model` with these arguments builds the same again.

    Attributes:
      backbone, widths, drop_path_rate, seed, taps: as given to `create_model`.
      tasks: (name, outputs) of every task.
      image_size: (height, width).
      heads: (task, head) of every task.
      head_options: (name, value) of options of the heads, the widths apart.
      declared: (name, declaration) of those tasks that a configuration declares.
    """

    backbone: str
    tasks: tuple[tuple[str, int], ...]
    image_size: tuple[int, int]
    heads: tuple[tuple[str, str], ...]
    widths: tuple[int, ...]
    drop_path_rate: float
    seed: int
    taps: tuple[int, ...] | None = None
    head_options: tuple[tuple[str, Any], ...] = ()
    declared: tuple[tuple[str, str], ...] = ()

    @property
    def head(self) -> str | dict[str, str]:
        """The head of all tasks, or where they differ, that of each by task; plain data, for `create_model`."""
        names = dict(self.heads)
        return next(iter(names.values())) if len(set(names.values())) == 1 else names


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The weight file that filled a model's backbone.

    Attributes:
      path: where it was read; of one from a hub, the address with commit and file.
      checksum: of its content, to recognise it by.
      sha256: of the file that was given or fetched; None for one of ours on this machine.
    """

    path: str
    checksum: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file's name, or the whole address on a hub."""
        return self.path if self.path.startswith("hf://") else pathlib.PurePath(self.path).name


class MultiTaskModel(nnx.Module):
    """Images to one map or one vector per task, as its head makes.

    Attributes:
      backbone: features with a stream axis.
      necks, heads: by task name; a neck where the head asks for one.
      task_names: the tasks, in order.
      read_only: tasks without an output of their own, whose features heads of other tasks look at.
      outputs: (task, outputs) of every task.
      recipe: what it was built from, where `create_model` did it.
      pretrained: the weight file of its backbone; None for random weights.
      adapted: what `wrap` attached, as a record of texts; None before.
    """

    recipe: Recipe | None = None
    pretrained: Pretrained | None = None
    adapted: Any = None
    read_only: tuple[str, ...] = ()

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[TaskLike],
        head: str | Mapping[str, str],
        widths: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        scope: Scope,
        head_options: Mapping[str, Any] | None = None,
    ):
        self.backbone = backbone
        self.task_names = tuple(task.name for task in tasks)
        self.outputs = tuple((task.name, task.num_outputs) for task in tasks)
        self.mean, self.std = tuple(mean), tuple(std)
        channels, necks, heads = backbone.config.feature_channels, {}, {}
        given = dict(head_options or {}) | {"widths": tuple(widths)}
        for task, name in zip(tasks, heads_of(tasks, head).values(), strict=True):
            cls, options = _head_of(task, name), build_options(name, given)
            inputs = tuple(channels) if cls.is_map else tuple(channels[-1:])
            if cls.has_neck:
                inputs = options.widths
                necks[task.name] = Neck(channels, inputs, scope / "necks" / task.name)
            heads[task.name] = cls(inputs, task.num_outputs, scope / "heads" / task.name, options)
        self.necks, self.heads = nnx.Dict(necks), nnx.Dict(heads)

    def tasks_of_stage(self, stage: int) -> tuple[str, ...]:
        """Tasks that may have a stream of their own in a stage of the backbone, in order.

        Where some heads make maps and others vectors, only the former read the stages before the last one.
        """
        maps = tuple(name for name in self.task_names if self.heads[name].is_map)
        last = stage == len(self.backbone.config.feature_channels) - 1
        return self.task_names if last or not maps else maps

    def normalise(self, images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        """uint8 pixels (or floats in 0..255) to normalised float32, or a wider `dtype`, on the device."""
        return normalise_images(images, self.mean, self.std, dtype)

    def features(self, images: jax.Array, context: Context) -> dict[str, list[jax.Array]]:
        """Per task its stage features `[B, h, w, C]`, from normalised images `[B, H, W, 3]`."""
        return self.pick(by_pieces(self.backbone, images, prepare_adapters(self.backbone, context)))

    def pick(self, taps: Taps) -> dict[str, list[jax.Array]]:
        """Per task its own stream of every tap that its head reads, or the shared one where it has none.

        Raises:
          ConfigError: the taps are not what the backbone's class promises.
        """
        _check_taps(self.backbone, taps)
        stream = lambda x, streams, name: x[streams.index(name) if name in streams else 0]
        # The class token, where it is read, stands behind the maps.
        maps = taps[: len(self.backbone.config.feature_channels)]
        read = lambda name: maps if self.heads[name].is_map else taps[-1:]
        names = (*self.task_names, *self.read_only)
        return {name: [stream(x, streams, name) for x, streams in read(name)] for name in names}

    def decode(self, features: dict[str, list[jax.Array]], size: tuple[int, int], context: Context):
        """Per task logits: maps `[B, H, W, outputs]` at the image's size, or vectors `[B, outputs]`.

        Raises:
          ConfigError: a head's logits are not what its class promises.
        """
        outputs, out = dict(self.outputs), {}
        # In the model's order, whatever tasks are left of it: what heads make of others depends on that by rounding.
        names = [name for name in outputs if name in self.task_names or name in self.read_only]
        narrow = lambda name: self.necks[name](features[name], context) if name in self.necks else features[name]
        read = {name: narrow(name) for name in names}
        for name in self.task_names:
            maps, head = read[name], self.heads[name]
            others = self.seen_by(name)
            logits = head(maps, context, [read[other] for other in others]) if head.sees_others else head(maps, context)
            _check_logits(name, head, logits, maps[0].shape[0], outputs[name])
            out[name] = resize_bilinear(logits, size) if head.is_map else logits
        return out

    def seen_by(self, task: str) -> list[str]:
        """The other tasks whose maps the head of a task looks at, in the model's order."""
        kind = type(self.heads[task])
        if not kind.sees_others:
            return []
        return [name for name, _ in self.outputs if name != task and type(self.heads.get(name)) is kind]

    def __call__(self, images: jax.Array, context: Context) -> dict[str, jax.Array]:
        """Raw logits per task, float32 `[B, H, W, outputs]` or `[B, outputs]`, from images `[B, H, W, 3]` in 0..255."""
        features = self.features(self.normalise(images, context.dtype), context)
        return self.decode(features, images.shape[1:3], context)


def create_model(
    backbone: str,
    tasks: Sequence[TaskLike],
    image_size: int | tuple[int, int],
    head: str | Mapping[str, str] = "hrnet",
    widths: Sequence[int] | None = None,
    drop_path_rate: float = 0.0,
    seed: int = 0,
    abstract: bool = False,
    taps: Sequence[int] | None = None,
    head_options: Mapping[str, Any] | None = None,
) -> MultiTaskModel:
    """Builds a multi-task model with seeded random weights.

    Args:
      backbone: a name of `list_models()`.
      tasks: task objects (`ditask_jax.tasks`), or anything with `name` and `num_outputs`.
      image_size: pixels, an int or (height, width).
      head: name of the decoder head, or names by task, as in `{"classification": "linear"}`. A task that the one name
        does not serve, or that the mapping leaves out, has the default of its kind: hrnet for maps, linear for vectors.
      widths: channels of each stage's neck, for heads behind a neck (hrnet: four times their sum wide); None: 18,
        doubled from stage to stage.
      drop_path_rate: of the last block; linear from 0.
      seed: of the initial values, which are a function of (seed, path).
      abstract: shapes only, for describing a model without building it.
      taps: ViT only: blocks behind which features are read, the last among them; None for four, equally spaced.
      head_options: options of the heads by name, the widths apart; each head takes those that it has.

    Raises:
      ConfigError: unknown names, no tasks, impossible image size, a head that does not give what a task needs, an
        option that no head has.
    """
    if not tasks:
        raise ConfigError("config: tasks: the list is empty; name at least one task, as in 'semseg+depth'")
    scope = Scope(seed=seed, abstract=abstract)
    entry, config = backbone_entry(backbone), backbone_config(backbone, taps)
    heads, stages = heads_of(tasks, head), len(config.feature_channels)
    head_options = {name: plain(value) for name, value in (head_options or {}).items()}
    for name in head_options:
        check_known("config: head: option", name, [known for known in option_names(heads) if known != "widths"])
    widths = tuple(DEFAULT_WIDTHS[0] * 2**stage for stage in range(stages)) if widths is None else tuple(widths)
    classes = [_head_of(task, heads[task.name]) for task in tasks]
    if any(cls.has_neck for cls in classes) and len(widths) != stages:
        raise ConfigError(f"config: head.widths: got {len(widths)} widths, expected one per stage ({stages})")
    readout = _readout({cls.is_map for cls in classes}, config.readouts)
    body = build_backbone(config, image_size, drop_path_rate, scope / "backbone", readout)
    model = MultiTaskModel(body, tasks, heads, widths, entry.mean, entry.std, scope, head_options)
    model.recipe = Recipe(
        backbone,
        tuple((task.name, task.num_outputs) for task in tasks),
        body.image_size,
        tuple(heads.items()),
        widths,
        drop_path_rate,
        seed,
        None if taps is None else tuple(taps),
        tuple(head_options.items()),
        tuple((task.name, task.declaration) for task in tasks if getattr(task, "declaration", "")),
    )
    return model


def _head_of(task: TaskLike, name: str) -> type[Head]:
    """The class that a head's name stands for, for the kind of output that a task needs."""
    return head_class(name, is_map=getattr(task, "is_map", True))


def _readout(kinds: set[bool], readouts: Sequence[str]) -> str:
    """What is read of a backbone for heads of these kinds: maps, vectors (from the class token, where there is one)."""
    wanted = {(True,): ("map",), (False,): ("token", "last"), (False, True): ("map+token", "map")}[tuple(sorted(kinds))]
    return next((readout for readout in wanted if readout in readouts), wanted[-1])


def _check_taps(backbone: Backbone, taps: Any) -> None:
    channels = tuple(backbone.config.feature_channels)
    channels = channels if backbone.readout in EVERY_STAGE else channels[-1:]
    channels = (*channels, channels[-1]) if backbone.readout == "map+token" else channels
    where = f"backbone: {defined_in(backbone)}"
    pairs = isinstance(taps, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in taps)
    if not pairs or len(taps) != len(channels):
        given = f"{len(taps)} of them" if pairs else f"a {type(taps).__name__}"
        raise ConfigError(
            f"{where} returned {given}, expected a list of {len(channels)} pairs (features, streams), one per stage "
            f"that readout '{backbone.readout}' reads"
        )
    for stage, ((features, streams), width) in enumerate(zip(taps, channels, strict=True)):
        shape = getattr(features, "shape", ())
        if len(shape) != 5 or shape[0] != len(streams) or shape[-1] != width:
            raise ConfigError(
                f"{where}: tap {stage} has shape {list(shape)} with the streams {' '.join(streams)}, expected "
                f"[{len(streams)}, batch, h, w, {width}]: streams, batch, grid, feature_channels[{stage}]"
            )


def _check_logits(task: str, head: Head, logits: Any, batch: int, outputs: int) -> None:
    shape, dtype = tuple(getattr(logits, "shape", ())), getattr(logits, "dtype", None)
    fits = len(shape) == (4 if head.is_map else 2) and (shape[0], shape[-1]) == (batch, outputs)
    if not fits or dtype not in (jnp.float32, jnp.float64):
        found = f"{dtype} {list(shape)}" if dtype is not None else f"a {type(logits).__name__}"
        wanted = f"[{batch}, h, w, {outputs}]" if head.is_map else f"[{batch}, {outputs}]"
        raise ConfigError(f"head of '{task}': {defined_in(head)} returned {found}, expected logits, float32 {wanted}")


# An image classifier on a backbone: final norm, mean over positions, one dense layer.


class Classifier(nnx.Module):
    """Normalised images `[B, H, W, 3]` to class logits `[B, classes]`, as the pre-trained checkpoints are scored."""

    def __init__(self, backbone, classes: int, scope: Scope | None = None):
        scope = scope or Scope()
        self.backbone = backbone
        channels = backbone.config.feature_channels[-1]
        self.norm = LayerNorm(channels, scope / "norm")
        self.head = Dense(channels, classes, scope / "head")

    def pooled(self, images: jax.Array, context: Context) -> jax.Array:
        """The mean of the normalised last features of the first stream, `[B, C]`, float32."""
        features, _ = self.backbone(images, context)[-1]
        return self.norm(features[0]).astype(jnp.float32).mean((1, 2))

    def __call__(self, images: jax.Array, context: Context) -> jax.Array:
        return self.head(self.pooled(images, context))


class RegionClassifier(Classifier):
    """The same without the mean: class logits `[B, h, w, classes]` for every position of the last stage."""

    def __call__(self, images: jax.Array, context: Context) -> jax.Array:
        features, _ = self.backbone(images, context)[-1]
        return self.head(self.norm(features[0]).astype(jnp.float32))
