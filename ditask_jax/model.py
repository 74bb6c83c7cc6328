"""Models: a backbone with necks and heads for several tasks, or with one classifier."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.backbones import backbone_config, backbone_entry, build_backbone
from ditask_jax.backbones.blocks import Backbone, Taps
from ditask_jax.errors import ConfigError, defined_in
from ditask_jax.heads import HEADS, head_class
from ditask_jax.heads.hrnet import Neck
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.linear import Dense, prepare_adapters
from ditask_jax.nn.norm import LayerNorm
from ditask_jax.nn.remat import by_pieces
from ditask_jax.nn.resize import normalise_images, resize_bilinear

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
      backbone, head, widths, drop_path_rate, seed, taps: as given to `create_model`.
      tasks: (name, outputs) of every task.
      image_size: (height, width).
    """

    backbone: str
    tasks: tuple[tuple[str, int], ...]
    image_size: tuple[int, int]
    head: str
    widths: tuple[int, ...]
    drop_path_rate: float
    seed: int
    taps: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The weight file that filled a model's backbone.

    Attributes:
      path: where it was read.
      checksum: of its content, to recognise it by.
    """

    path: str
    checksum: str


class MultiTaskModel(nnx.Module):
    """Images to one map per task, or to one vector per task where the head gives vectors.

    Attributes:
      backbone: features with a stream axis.
      necks, heads: by task name; no necks where the head takes the features as they are.
      task_names: the tasks, in order.
      is_map: whether the outputs are maps.
      recipe: what it was built from, where `create_model` did it.
      pretrained: the weight file of its backbone; None for random weights.
      adapted: what `wrap` attached, as a record of texts; None before.
    """

    recipe: Recipe | None = None
    pretrained: Pretrained | None = None
    adapted: Any = None

    def __init__(self, backbone, tasks: Sequence[TaskLike], head: str, widths, mean, std, scope: Scope):
        self.backbone = backbone
        self.task_names = tuple(task.name for task in tasks)
        self.mean, self.std = tuple(mean), tuple(std)
        channels = backbone.config.feature_channels
        cls = head_class(head)
        self.is_map = cls.is_map
        necks = {t.name: Neck(channels, widths, scope / "necks" / t.name) for t in tasks if cls.has_neck}
        inputs = widths if cls.has_neck else channels
        self.necks = nnx.Dict(necks)
        self.heads = nnx.Dict({t.name: cls(inputs, t.num_outputs, scope / "heads" / t.name) for t in tasks})

    def normalise(self, images: jax.Array) -> jax.Array:
        """uint8 pixels (or floats in 0..255) to normalised float32, on the device."""
        return normalise_images(images, self.mean, self.std)

    def features(self, images: jax.Array, context: Context) -> dict[str, list[jax.Array]]:
        """Per task its stage features `[B, h, w, C]`, from normalised images `[B, H, W, 3]`."""
        return self.pick(by_pieces(self.backbone, images, prepare_adapters(self.backbone, context)))

    def pick(self, taps: Taps) -> dict[str, list[jax.Array]]:
        """Per task its own stream of every tap, or the shared one where it has none.

        Raises:
          ConfigError: the taps are not what the backbone's class promises.
        """
        _check_taps(self.backbone, taps)
        pick = lambda x, streams, name: x[streams.index(name) if name in streams else 0]
        return {name: [pick(x, streams, name) for x, streams in taps] for name in self.task_names}

    def decode(self, features: dict[str, list[jax.Array]], size: tuple[int, int], context: Context):
        """Per task logits: maps `[B, H, W, outputs]` at the image's size, or vectors `[B, outputs]`."""
        out = {}
        for name in self.task_names:
            maps = self.necks[name](features[name], context) if name in self.necks else features[name]
            logits = self.heads[name](maps, context)
            out[name] = resize_bilinear(logits, size) if self.is_map else logits
        return out

    def __call__(self, images: jax.Array, context: Context) -> dict[str, jax.Array]:
        """Raw logits per task, float32 `[B, H, W, outputs]` or `[B, outputs]`, from images `[B, H, W, 3]` in 0..255."""
        features = self.features(self.normalise(images), context)
        return self.decode(features, images.shape[1:3], context)


def create_model(
    backbone: str,
    tasks: Sequence[TaskLike],
    image_size: int | tuple[int, int],
    head: str = "hrnet",
    widths: Sequence[int] | None = None,
    drop_path_rate: float = 0.0,
    seed: int = 0,
    abstract: bool = False,
    taps: Sequence[int] | None = None,
) -> MultiTaskModel:
    """Builds a multi-task model with seeded random weights.

    Args:
      backbone: a name of `list_models()`.
      tasks: task objects (`ditask_jax.tasks`), or anything with `name` and `num_outputs`.
      image_size: pixels, an int or (height, width).
      head: decoder head.
      widths: channels of each stage's neck, for heads behind a neck (hrnet: four times their sum wide); None: 18,
        doubled from stage to stage.
      drop_path_rate: of the last block; linear from 0.
      seed: of the initial values, which are a function of (seed, path).
      abstract: shapes only, for describing a model without building it.
      taps: ViT only: blocks behind which features are read, the last among them; None for four, equally spaced.

    Raises:
      ConfigError: unknown names, no tasks, impossible image size, a head that does not give what a task needs.
    """
    if not tasks:
        raise ConfigError("config: tasks: the list is empty; name at least one task, as in 'semseg+depth'")
    scope = Scope(seed=seed, abstract=abstract)
    entry, config = backbone_entry(backbone), backbone_config(backbone, taps)
    _check_head(head, tasks)
    stages = len(config.feature_channels)
    widths = tuple(DEFAULT_WIDTHS[0] * 2**stage for stage in range(stages)) if widths is None else tuple(widths)
    if head_class(head).has_neck and len(widths) != stages:
        raise ConfigError(f"config: head.widths: got {len(widths)} widths, expected one per stage ({stages})")
    # A classifier reads one tap: the class token where there is one, else the last stage's map.
    readout = "map"
    if not head_class(head).is_map:
        readout = next((kind for kind in ("token", "last") if kind in config.readouts), "last")
    body = build_backbone(config, image_size, drop_path_rate, scope / "backbone", readout)
    model = MultiTaskModel(body, tasks, head, widths, entry.mean, entry.std, scope)
    outputs = tuple((task.name, task.num_outputs) for task in tasks)
    taps = None if taps is None else tuple(taps)
    model.recipe = Recipe(backbone, outputs, body.image_size, head, widths, drop_path_rate, seed, taps)
    return model


def _check_taps(backbone: Backbone, taps: Any) -> None:
    channels = tuple(backbone.config.feature_channels)
    channels = channels if backbone.readout == "map" else channels[-1:]
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


def _check_head(head: str, tasks: Sequence[TaskLike]) -> None:
    gives_maps = head_class(head).is_map
    for task in tasks:
        if getattr(task, "is_map", True) != gives_maps:
            kind, other = ("a map", "one vector per picture") if gives_maps else ("one vector per picture", "a map")
            fitting = " or ".join(name for name, cls in HEADS.items() if cls.is_map != gives_maps)
            raise ConfigError(
                f"config: head.name: '{head}' gives {kind}, but '{task.name}' needs {other}; use {fitting}"
            )


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
