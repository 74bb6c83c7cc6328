"""PyTorch's `.pth` files, read by PyTorch in its mode that runs no code, with a list of names that mean nothing here.

Training checkpoints carry more than weights: a yacs configuration, command-line options, NumPy numbers. Their classes
are not imported; their names stand for inert stand-ins below. Every other name in the pickle is refused.
"""

import collections
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ditask_jax.errors import WeightsError


class Inert:
    """Takes the place of an object whose content does not matter; whatever it is given, it ignores."""

    def __new__(cls, *_: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any):
        return

    def __setstate__(self, _: Any) -> None:
        return


# What a name in a pickle is read as. `OrderedDict` keeps the items of a configuration, and runs nothing.
STAND_INS: dict[str, type] = {
    "yacs.config.CfgNode": collections.OrderedDict,
    "argparse.Namespace": Inert,
    "pathlib.PosixPath": Inert,
    "pathlib.Path": Inert,
    "numpy.dtype": Inert,
    "numpy.core.multiarray.scalar": Inert,
    "numpy._core.multiarray.scalar": Inert,
}
# How a zip archive begins; PyTorch looks at the same bytes.
_ARCHIVE = b"PK\x03\x04"
# Entries of a configuration that are kept.
MOST_ENTRIES = 10_000
_FORBIDDEN = re.compile(r"(?:GLOBAL|global:?)\s+(?:GLOBAL\s+)?`?([\w.]+)")


def load_pickle(path: Path, where: str) -> Any:
    """What `torch.save` wrote, with tensors on the CPU; no code of the file is run.

    Args:
      path: the file.
      where: its name, for errors.

    Raises:
      WeightsError: PyTorch is not installed, the file is damaged, or it asks for something besides tensors.
    """
    _check_unpacked_size(path, where)
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{where} is a PyTorch file, and PyTorch is not installed here: pip install torch, a "
            "CPU build will do (or take a .safetensors file, which needs no PyTorch)"
        ) from None
    known = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(known):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch raises whatever its parsers meet: RuntimeError, KeyError, struct.error, UnicodeDecodeError ...
        text = " ".join(str(error).split())
        if forbidden := _FORBIDDEN.search(text):
            raise WeightsError(
                f"{where} wants '{forbidden[1]}' to be loaded, which is no part of a weight file; nothing was run. "
                "Take a .safetensors file, or one that holds the state dict alone"
            ) from None
        raise WeightsError(f"{where} is damaged or no PyTorch file ({type(error).__name__}: {text[:160]})") from None


def _check_unpacked_size(path: Path, where: str) -> None:
    """Refuses archives that grow when they are unpacked; PyTorch itself compresses nothing."""
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            return  # PyTorch's older format, or something else, which PyTorch says itself
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:
        # Besides BadZipFile it lets through what its parts raise: struct.error, OSError, UnicodeDecodeError ...
        raise WeightsError(f"{where} is damaged or no PyTorch file ({type(error).__name__})") from None
    if unpacked > path.stat().st_size:
        raise WeightsError(f"{where} unpacks to {unpacked:,} bytes from {path.stat().st_size:,}: no file of PyTorch")


def is_tensor(value: Any) -> bool:
    """Whether a value is a PyTorch tensor; asks nothing of PyTorch."""
    return type(value).__module__.split(".")[0] == "torch" and hasattr(value, "numel")


def to_numpy(name: str, tensor: Any, where: str) -> np.ndarray:
    """A copy of a tensor, its type and bits kept.

    Raises:
      WeightsError: it is sparse or quantised, or claims more numbers than the file stores.
    """
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise WeightsError(f"{where}: tensor '{name}' is not a plain dense one ({tensor.layout}, {tensor.dtype})")
    # Strides of zero can make terabytes out of four bytes.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise WeightsError(f"{where}: tensor '{name}' of shape {tuple(tensor.shape)} has more numbers than are stored")
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    try:
        return tensor.numpy().copy()
    except (TypeError, RuntimeError):
        raise WeightsError(f"{where}: tensor '{name}' is {tensor.dtype}, which is not read") from None


def plain_text(value: Any) -> Any:
    """A configuration as plain data: groups, numbers and texts; anything else as its type's name.

    A group may hold itself, so depth and number of entries are bounded; what lies beyond becomes "...".
    """
    return _plain(value, 0, iter(range(MOST_ENTRIES)))


def _plain(value: Any, depth: int, places: Iterator[int]) -> Any:
    if next(places, None) is None or depth > 8:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1, places) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else type(value).__name__
