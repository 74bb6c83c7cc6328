"""Writing weights for other code bases, and programs: StableHLO and ONNX."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ditask_jax.adapters.merging import fold_layer_scale as fold_scale
from ditask_jax.adapters.merging import merge, scaled_blocks
from ditask_jax.backbones import backbone_entry
from ditask_jax.backbones.dino import Dinov2Config
from ditask_jax.backbones.vit import VitConfig
from ditask_jax.conversion.layout_registry import ONE_STREAM, layout_for, layout_of
from ditask_jax.conversion.layouts import Layout
from ditask_jax.conversion.multitask_layouts import stream_tensors
from ditask_jax.conversion.obtaining import obtain_weights
from ditask_jax.conversion.weight_sources import check_program, printable
from ditask_jax.errors import WeightsError, check_known
from ditask_jax.files import atomic_write_bytes, user_path
from ditask_jax.hub.addresses import is_hub, local_or_hub
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import linears
from ditask_jax.nn.state import flatten, split_state
from ditask_jax.weight_files import encode_tensors

# Our weights for other code bases: adapters merged, names and layouts theirs.


STREAMS = "ditask"
EXPORTS = (*ONE_STREAM, STREAMS)
_TRAINED = ("backbone/", "necks/", "heads/")


@dataclasses.dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
      path: the file.
      layout: whose names it has.
      tensors: how many.
      untouched: how many of those are the source file's own, bit for bit.
      notes: what a reader has to know, one sentence each.
    """

    path: Path
    layout: str
    tensors: int
    untouched: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        numbers = f"{self.tensors} tensors, {self.untouched} of them the source's own"
        return "\n".join([f"{self.layout} layout: {numbers}: {printable(str(self.path))}", *self.notes])


def export_weights(
    path: Path | str,
    model: MultiTaskModel,
    layout: str = STREAMS,
    state: Any = None,
    source: Path | str | None = None,
    fold_layer_scale: bool = False,
) -> Export:
    """Writes a model's merged weights as a safetensors file for PyTorch.

    Args:
      path: the file; an older one is replaced.
      model: wrapped or merged.
      layout: "timm", "official" or "huggingface": the backbone, with the final norm and classifier of the weight file
        that it was loaded from; for models whose tasks share one stream. "ditask": everything, one kernel per stream
        where streams differ, necks, heads and their statistics.
      state: values in place of the model's own, as `Trainer.fit` returns them.
      source: the weight file the backbone was loaded from, where it has moved since.
      fold_layer_scale: multiply LayerScale into the layers that end residual branches, for code that has none; a DINOv2
        without registers is then a plain ViT, and "huggingface" its names.

    Raises:
      WeightsError: the layout cannot hold the model; a source that is missing, not the one it was, or the target.
    """
    path = user_path(path)
    check_known("export: --layout", layout, EXPORTS, WeightsError)
    if model.recipe is None:
        raise WeightsError("export: the model does not come from create_model, so that its architecture has no name")
    # What cannot be written is found before anything is computed.
    for start in (source, model.pretrained and model.pretrained.path):
        here = None if not start or is_hub(start) else user_path(start)
        if here and path.exists() and here.exists() and path.samefile(here):
            raise WeightsError(
                f"export: '{path}' is the weight file that the model started from; write to another file"
            )
    _check_kernels(model)
    if fold_layer_scale and not scaled_blocks(model):
        raise WeightsError(f"export: '{model.recipe.backbone}' has no LayerScale to fold; leave --fold-layer-scale out")
    merged = lambda: fold_scale(merge(model, state)) if fold_layer_scale else merge(model, state)
    if layout == STREAMS:
        tensors, metadata = stream_tensors(merged())
        kept, notes = 0, []
    else:
        names = _names(layout, model, fold_layer_scale)
        _check_one_stream(model, layout)
        found = _source(model, source)
        tensors, kept, notes = _one_stream(merged(), names, found)
        metadata = {"format": "pt", "architecture": model.recipe.backbone, "layout": layout}
    atomic_write_bytes(path, encode_tensors(tensors, metadata))
    return Export(path, layout, len(tensors), kept, tuple(notes))


def _names(name: str, model: MultiTaskModel, folded: bool) -> Layout:
    """The layout of a name; of a model whose LayerScale is folded, that of the plain ViT which it then is."""
    architecture, config = model.recipe.backbone, backbone_entry(model.recipe.backbone).config
    if not folded:
        return layout_of(name, architecture)
    if isinstance(config, Dinov2Config) and not config.registers:
        shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(VitConfig)}
        return layout_for(name, VitConfig(**shared | {"layer_scale": None}), architecture)
    if name == "huggingface":
        raise WeightsError(
            f"export: layout '{name}': no code of that name has '{architecture}' without LayerScale; leave "
            "--fold-layer-scale out"
        )
    return layout_of(name, architecture)


def _check_kernels(model: MultiTaskModel) -> None:
    stuck = [layer.info.path for layer in linears(model.backbone) if layer.adapter and not layer.adapter.mergeable]
    if stuck:
        raise WeightsError(
            f"export: no kernel can stand for the adapters of {len(stuck)} layers, such as '{stuck[0]}' (there is a "
            "nonlinearity inside); save_adapter writes them, and export --program the whole computation"
        )


def _check_one_stream(model: MultiTaskModel, layout: str) -> None:
    leaving = lambda layer: layer.adapter.streams_out(()) if layer.adapter is not None else layer.merged_streams
    fanned = {layer.info.path: leaving(layer) for layer in linears(model.backbone) if leaving(layer)}
    if fanned:
        streams = " ".join(dict.fromkeys(name for names in fanned.values() for name in names))
        raise WeightsError(
            f"export: layout '{layout}' holds one kernel per layer, but {len(fanned)} layers of this model, such as "
            f"'{next(iter(fanned))}', have one for each of {streams}. Use --layout ditask, or train with adapters "
            "shared by all tasks: --config.method.task_layers=()"
        )


def _source(model: MultiTaskModel, path: Path | str | None) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
    """Arrays and description of the weight file behind a model; None where it started from random weights."""
    if model.pretrained is None:
        if path is not None:
            raise WeightsError(f"export: '{path}': the model did not start from a weight file")
        return None
    file = local_or_hub(path or model.pretrained.path, "export: --weights")
    if isinstance(file, Path) and not file.is_file():
        raise WeightsError(
            f"export: '{file}', which the backbone was loaded from, is not there; it holds the final norm and the "
            "classifier. Put it back, or name it with --weights FILE"
        )
    found = obtain_weights(file, model.recipe.backbone)
    arrays, metadata = found.arrays, found.metadata
    if metadata["checksum"] != model.pretrained.checksum:
        raise WeightsError(f"export: '{file}' is not the file that the backbone was loaded from; name that one")
    return arrays, metadata


def _one_stream(merged: MultiTaskModel, layout: Layout, source) -> tuple[dict[str, np.ndarray], int, list[str]]:
    """Tensors of a one-stream layout, how many are the source's own, and notes."""
    architecture, name = merged.recipe.backbone, layout.name
    arrays, metadata = source or ({}, {})
    values, kept = {}, set()
    for path, value in backbone_arrays(merged).items():
        values[path] = value
        # The file's own array where training has not changed it: its type, and so every bit of it, comes back.
        if path in arrays and _equal(arrays[path], value):
            values[path] = arrays[path]
            kept.add(path)
    carried = {path: array for path, array in arrays.items() if not path.startswith(_TRAINED)}
    kept |= carried.keys()
    prefixed = metadata.get("prefixed") == "yes" if metadata.get("layout") == name else "head/kernel" in carried
    tensors, homeless = layout.write(values | carried, prefixed)
    lost = [path for path in homeless if path in values]
    if lost:
        raise WeightsError(f"export: layout '{name}' has no name for {' '.join(lost[:4])} of '{architecture}'")
    notes = [f"left out: {path}: the layout has no place for it" for path in homeless]
    if not carried:
        notes.append("without final norm and classifier (the backbone was not loaded from a file that has them)")
    if layout.buffers is not None:
        # What came with the weights stays as it came.
        tensors = layout.buffers(backbone_entry(architecture).config, merged.recipe.image_size) | tensors
    return tensors, len(kept - set(homeless)), notes


def backbone_arrays(merged: MultiTaskModel) -> dict[str, np.ndarray]:
    """Everything in a merged backbone, by path."""
    parts = split_state(merged)
    trees = (parts.trainable, parts.frozen, parts.stats)
    flat: Mapping[str, Any] = {path: value for tree in trees for path, value in flatten(tree).items()}
    return {path: np.asarray(value) for path, value in sorted(flat.items()) if path.startswith("backbone/")}


def _equal(stored: np.ndarray, value: np.ndarray) -> bool:
    """Whether a model's array is what its file holds, rounded to the model's type."""
    return stored.shape == value.shape and np.array_equal(stored.astype(value.dtype), value)


# A merged model as a program that needs nothing of this package to run.


PLATFORMS = ("cpu", "cuda", "tpu")


def program_bytes(model: MultiTaskModel, state: Any = None, platforms: tuple[str, ...] = PLATFORMS) -> bytes:
    """The serialised program: `images uint8 [batch, H, W, 3] -> {task: logits float32}`, weights inside.

    `jax.export.deserialize(content).call(images)` runs it; the batch may have any size, height and width are the
    model's.

    Args:
      model: wrapped or merged.
      state: values in place of the model's own, as `Trainer.fit` returns them.
      platforms: what it can run on.
    """
    predict, images = _prediction(model, state)
    return bytes(export.export(jax.jit(predict), platforms=platforms)(images).serialize())


def onnx_bytes(model: MultiTaskModel, state: Any = None) -> bytes:
    """An ONNX model: input `images`, uint8 `[batch, H, W, 3]`; an output per task, by its name, float32 logits.

    The batch may have any size, height and width are the model's.

    Args:
      model: wrapped or merged.
      state: values in place of the model's own, as `Trainer.fit` returns them.

    Raises:
      WeightsError: jax2onnx is not installed, or cannot express what the model computes.
    """
    check_program("onnx", WeightsError)
    with _quiet("jax2onnx", "onnx_ir"):
        from jax2onnx import to_onnx

        predict, images = _prediction(model, state)
        tasks = sorted(jax.eval_shape(predict, images))  # the order in which JAX takes a dict apart
        try:
            found = to_onnx(predict, [images], model_name="ditask_jax", input_names=["images"], output_names=tasks)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise WeightsError(f"export: jax2onnx cannot write it ({reason}); --program writes StableHLO") from error
    # Some shapes that it notes of values inside are wrong. They serve readers only, who find them out by themselves.
    del found.graph.value_info[:]
    return found.SerializeToString()


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keeps what libraries log on their way to themselves, unless it is an error."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _prediction(model: MultiTaskModel, state: Any) -> tuple[Callable[[jax.Array], dict], jax.ShapeDtypeStruct]:
    """A merged model as a function of images, and the images it takes."""
    merged = merge(model, state)
    height, width = merged.backbone.image_size
    (batch,) = export.symbolic_shape("batch")

    def predict(images):
        return merged(images, Context(train=False))

    return predict, jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)


def export_program(path: Path | str, model: MultiTaskModel, state: Any = None, kind: str = "stablehlo") -> Path:
    """Writes a program to a file: that of `program_bytes`, or of `onnx_bytes`.

    Args:
      path: the file; an older one is replaced.
      model: wrapped or merged.
      state: values in place of the model's own, as `Trainer.fit` returns them.
      kind: "stablehlo" or "onnx".

    Raises:
      WeightsError: the model is too large for the format (2 GiB), or the package that writes it is not installed.
    """
    check_program(kind, WeightsError)
    try:
        content = onnx_bytes(model, state) if kind == "onnx" else program_bytes(model, state)
    except ImportError as error:
        raise WeightsError(f"export: a program needs flatbuffers: pip install flatbuffers ({error})") from None
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"export: the program could not be written ({' '.join(str(error).split())[:200]})") from None
    return atomic_write_bytes(user_path(path), content)


def load_program(path: Path | str):
    """The function of a program file, for tests and for trying one out.

    Raises:
      WeightsError: missing or damaged.
    """
    path = user_path(path, "program")
    try:
        return export.deserialize(bytearray(path.read_bytes())).call
    except ImportError as error:
        raise WeightsError(f"program: it needs flatbuffers: pip install flatbuffers ({error})") from None
    except Exception as error:
        # The reader of flatbuffers raises struct.error, AssertionError, IndexError and others on a damaged file.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise WeightsError(f"program: '{path}' cannot be read ({reason})") from None
