"""Foreign weight files: their tensors under their own names, whatever container holds them."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ditask_jax.conversion.options import printable
from ditask_jax.conversion.pickles import is_tensor, load_pickle, plain_text, to_numpy
from ditask_jax.errors import WeightsError, did_you_mean
from ditask_jax.files import user_path
from ditask_jax.tensors import read_tensors

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
# Where training programs put the weights, best first.
_CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "net")
# How often a number of a file may be used.
_MOST_SHARING = 8
_WRAPPERS = ("module.", "_orig_mod.")


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


def read_source(path: Path | str) -> Source:
    """Reads a `.safetensors` file, or a PyTorch file without running code of it.

    Raises:
      WeightsError: missing, damaged, of an unknown kind, or without tensors.
    """
    path = user_path(path)
    where = f"source: '{path}'"
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix == ".safetensors" or p.suffix in PICKLED)
        raise WeightsError(f"{where} is a folder; give a file of it{': ' + ' '.join(inside[:8]) if inside else ''}")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise WeightsError(f"{where}: no such file. {did_you_mean(path.name, near[:20])}")
    if path.suffix == ".safetensors":
        arrays, metadata = read_tensors(path, where)
        if metadata.get("format", "").startswith("ditask_jax/"):
            raise WeightsError(f"{where} is a weight file of this package already; use it as it is")
        ignored, config = [], None
    elif path.suffix in PICKLED:
        arrays, ignored, config = _from_pickle(load_pickle(path, where), path.stat().st_size, where)
    else:
        raise WeightsError(f"{where} is of an unknown kind. {did_you_mean(path.suffix, ('.safetensors', *PICKLED))}")
    if not arrays:
        raise WeightsError(f"{where} holds no tensors")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = {printable(name): array for name, array in sorted(_unwrapped(arrays).items())}
    return Source(path, digest, named, tuple(ignored), config)


def _from_pickle(content: Any, size: int, where: str) -> tuple[dict[str, np.ndarray], list[tuple[str, str]], Any]:
    if not isinstance(content, Mapping):
        raise WeightsError(f"{where} holds a {type(content).__name__}, expected a state dict; save model.state_dict()")
    config, ignored = None, []
    state = content
    if not any(is_tensor(value) for value in content.values()):
        name = next((n for n in _CONTAINERS if isinstance(content.get(n), Mapping)), None)
        if name is None:
            raise WeightsError(
                f"{where} holds no state dict: entries {' '.join(map(str, list(content)[:8]))}. "
                f"Known containers: {' '.join(_CONTAINERS)}"
            )
        state = content[name]
        others = [printable(str(key)) for key in content if key != name]
        ignored = [(key, "not weights but the state of a training run") for key in others]
        config = plain_text(content["config"]) if isinstance(content.get("config"), Mapping) else None
    _check_sharing(state, size, where)
    arrays = {}
    for key, value in state.items():
        name = printable(str(key))
        if is_tensor(value):
            arrays[name] = to_numpy(name, value, where)
        else:
            ignored.append((name, f"not a tensor but a {type(value).__name__}"))
    return arrays, ignored, config


def _check_sharing(state: Mapping[Any, Any], size: int, where: str) -> None:
    """Tied weights are stored once and copied here; thousands of names for the same numbers would fill the memory."""
    claimed = sum(value.numel() * value.element_size() for value in state.values() if is_tensor(value))
    if claimed > _MOST_SHARING * size:
        raise WeightsError(f"{where}: its tensors claim {claimed:,} bytes, more than {_MOST_SHARING} times the file")


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names without the prefix that wrappers of PyTorch put before every one."""
    found = dict(arrays)
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): array for name, array in found.items()}
    return found
