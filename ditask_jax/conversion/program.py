"""A merged model as a StableHLO program that needs nothing of this package to run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from ditask_jax.adapters.merging import merge
from ditask_jax.errors import WeightsError
from ditask_jax.files import atomic_write_bytes, user_path
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.context import Context

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
    merged = merge(model, state)
    height, width = merged.backbone.image_size

    def predict(images):
        return merged(images, Context(train=False))

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    return bytes(export.export(jax.jit(predict), platforms=platforms)(images).serialize())


def export_program(path: Path | str, model: MultiTaskModel, state: Any = None) -> Path:
    """Writes the program of `program_bytes` to a file.

    Raises:
      WeightsError: the model is too large for the format (2 GiB).
    """
    try:
        content = program_bytes(model, state)
    except ImportError as error:
        raise WeightsError(
            f"export: a program needs flatbuffers: pip install 'ditask-jax[program]' ({error})"
        ) from None
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
        raise WeightsError(f"program: it needs flatbuffers: pip install 'ditask-jax[program]' ({error})") from None
    except Exception as error:
        # The reader of flatbuffers raises struct.error, AssertionError, IndexError and others on a damaged file.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise WeightsError(f"program: '{path}' cannot be read ({reason})") from None
