"""Foreign weight files: their tensors under their own names, whatever container holds them."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ditask_jax.conversion.pickles import is_tensor, load_pickle, plain_text, to_numpy
from ditask_jax.errors import WeightsError, did_you_mean
from ditask_jax.tensors import read_tensors

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
# Where training programs put the weights, best first.
_CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "net")
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
    path = Path(path).expanduser()
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
        arrays, ignored, config = _from_pickle(load_pickle(path, where), where)
    else:
        raise WeightsError(f"{where} is of an unknown kind. {did_you_mean(path.suffix, ('.safetensors', *PICKLED))}")
    if not arrays:
        raise WeightsError(f"{where} holds no tensors")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(path, digest, _unwrapped(arrays), tuple(ignored), config)


def _from_pickle(content: Any, where: str) -> tuple[dict[str, np.ndarray], list[tuple[str, str]], Any]:
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
        ignored = [(str(key), "not weights but the state of a training run") for key in content if key != name]
        config = plain_text(content["config"]) if isinstance(content.get("config"), Mapping) else None
    arrays = {}
    for name, value in state.items():
        if is_tensor(value):
            arrays[str(name)] = to_numpy(str(name), value, where)
        else:
            ignored.append((str(name), f"not a tensor but a {type(value).__name__}"))
    return arrays, ignored, config


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names without the prefix that wrappers of PyTorch put before every one."""
    found = dict(arrays)
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): array for name, array in found.items()}
    return found
