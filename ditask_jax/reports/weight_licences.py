"""Where the base weights of a run come from, and under which licence their makers released them."""

import json
import struct
from pathlib import Path

from ditask_jax.backbones import backbone_entry
from ditask_jax.files import user_path

_LARGEST_HEADER = 100_000_000
_TRAINED_ON = {
    "22kto1k": "ImageNet-22k, then ImageNet-1k",
    "in22k_ft_in1k": "ImageNet-22k, then ImageNet-1k",
    "in21k_ft_in1k": "ImageNet-21k, then ImageNet-1k",
    "22k": "ImageNet-22k",
    "in21k": "ImageNet-21k",
}


def weights_lines(backbone: str, weights: str | None) -> list[str]:
    """What a model card says of the base weights, as lines of a list.

    Args:
      backbone: name in the registry.
      weights: `backbone.weights` of the configuration.
    """
    if weights is None:
        return ["- none: training started from random numbers"]
    entry = backbone_entry(backbone)
    if weights == "embedded":
        return [
            f"- `{entry.embedded_weights}` inside ditask_jax, trained on procedural scenes by "
            "`python -m ditask_jax.pretrain`",
            f"- licence: {entry.licence}, as the package",
        ]
    path = user_path(weights)
    described = description(path)
    found = [f"- file: `{path.name}`"]
    source = described.get("source", "")
    if source:
        found.append(f"- converted from `{source}` (SHA-256 `{described.get('source_sha256', 'not recorded')}`)")
    released = _released(source or path.name, entry.weight_files)
    if released:
        trained = next((data for mark, data in _TRAINED_ON.items() if mark in released), "ImageNet-1k")
        found.append(f"- by its name the released file `{released}`, trained on {trained}")
        found.append(
            f"- licence of the released weights: {entry.licence}; that of the pictures behind them (ImageNet: "
            "non-commercial research) is another matter"
        )
    else:
        known = f"; released weights of this architecture are under {entry.licence}" if entry.licence else ""
        found.append(f"- licence: not known, the file is none of the released ones by its name{known}")
    return found


def _released(name: str, files: tuple[str, ...]) -> str:
    """The released file of a name, whatever ending it has now."""
    plain = lambda text: text.lower().removesuffix(".pth").removesuffix(".safetensors").removesuffix(".bin")
    return next((file for file in files if plain(file) == plain(Path(name).name)), "")


def description(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself, without reading its numbers; empty where it cannot be read.

    >>> description(Path("no such file"))
    {}
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < _LARGEST_HEADER else {}
    except (OSError, struct.error, ValueError):
        return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}
