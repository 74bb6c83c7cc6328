"""Foreign weights into ours: every source tensor is used once or left out for a reason, and every target is filled."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ditask_jax.backbones import backbone_entry, create_backbone, known_backbone, list_models
from ditask_jax.conversion.layout_registry import recognise
from ditask_jax.conversion.layouts import Layout, Size
from ditask_jax.conversion.names import Found
from ditask_jax.conversion.weight_sources import Source, printable, read_source
from ditask_jax.errors import ConfigError, WeightsError, check_known
from ditask_jax.files import json_text, user_path
from ditask_jax.hub.addresses import HubAddress, local_or_hub
from ditask_jax.hub.transfers import fetch
from ditask_jax.nn.context import Scope
from ditask_jax.nn.state import flatten, split_state
from ditask_jax.weight_files import some, write_weights

FLOATING = (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A foreign file under our names, checked.

    Attributes:
      source: the file.
      layout: whose names it had.
      architecture: the backbone it fills, a name of `list_models()`.
      arrays: under our paths, in the file's own types: the backbone, and what travels along (final norm, classifier).
      ignored: reason by name of every tensor or entry that was left out.
      metadata: what the weight file says about itself.
    """

    source: Source
    layout: Layout
    architecture: str
    arrays: Mapping[str, np.ndarray]
    ignored: Mapping[str, str]
    metadata: Mapping[str, str]

    def write(self, path: Path | str) -> None:
        """Writes the weight file."""
        write_weights(user_path(path), self.arrays, **self.metadata)

    def summary(self) -> str:
        """What was taken and what was not, in a few lines."""
        numbers = sum(array.size for array in self.arrays.values())
        kinds = " ".join(sorted({str(array.dtype) for array in self.arrays.values()}))
        lines = [f"{self.layout.title} weights of {self.architecture}: {len(self.arrays)} arrays, {numbers:,} {kinds}"]
        if classes := self.metadata.get("classes"):
            lines.append(f"final norm and classifier of {classes} classes travel along, for export")
        reasons: dict[str, list[str]] = {}
        for name, reason in self.ignored.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"left out, {reason}: {_few(names)}" for reason, names in reasons.items()]
        return "\n".join(lines)


def convert_weights(
    path: Path | str,
    architecture: str | None = None,
    image_size: int | Size | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    state: str | None = None,
) -> Conversion:
    """Reads a foreign file and puts it under our names; nothing is resized or rounded.

    Args:
      path: a `.safetensors` file, or a PyTorch file (which needs PyTorch), or the address of either on a hub.
      architecture: a name of `list_models()`; None: inferred from the shapes.
      image_size: what the weights were trained on, where position embeddings of an oblong grid cannot tell.
      mean, std: of those images in [0, 1]; None: the usual ones of the architecture.
      state: which of several sets of weights, such as "model_ema"; see `read_source`.

    Raises:
      WeightsError: the file cannot be read, is of no known layout or size, or does not fit exactly; all that is wrong
        is in one message.
      ConfigError: there is no such architecture.
    """
    if architecture is not None and not known_backbone(architecture):
        check_known("convert: --architecture", architecture, list_models())
    place = local_or_hub(path, "source")
    found_on_hub = fetch(place) if isinstance(place, HubAddress) else None
    source = read_source(found_on_hub.path if found_on_hub else place, state)
    layout = recognise(source.arrays, source.where)
    try:
        found, left_out, prefixed = layout.read(source.arrays)
    except WeightsError as error:
        raise WeightsError(f"{source.where} ({layout.title}): {error}") from None
    fields = _inferred(layout, found, source)
    name = _architecture(layout, fields, architecture, source)
    size = _size(layout, fields, found, image_size, source)
    # A size that was asked for must fit; one inferred from the arrays says nothing about those that loading resizes.
    resized = layout.family.resized if image_size is None else r"$^"
    _check(found, _expected(name, size, source), layout, source, name, resized)
    metadata = _describe(source, layout, name, found.arrays, prefixed)
    if image_size is not None or layout.family.name in ("PVT", "ViT", "DINOv2"):
        metadata["image_size"] = json_text(size, ascii=True)
    if found_on_hub:
        metadata["source"] = str(found_on_hub.address)
    if state is not None:
        metadata["source_state"] = printable(state)
    ignored = dict(source.ignored) | left_out
    for statistic, values in (("mean", mean), ("std", std)):
        if values is not None:
            metadata[statistic] = json_text(values, ascii=True)
    metadata["ignored"] = json_text(_counts(ignored), ascii=True)
    return Conversion(source, layout, name, found.arrays, ignored, metadata)


def _inferred(layout: Layout, found: Found, source: Source) -> dict[str, Any]:
    try:
        return layout.family.infer(found.arrays)
    except WeightsError as error:
        rest = _problems(found, [])
        text = str(error).removeprefix("source: ")
        raise WeightsError(f"{source.where} ({layout.title}): {'; '.join([text, *rest])}") from None


def _architecture(layout: Layout, fields: Mapping[str, Any], asked: str | None, source: Source) -> str:
    """The backbone whose sizes are those of the file."""
    differences: dict[str, list[str]] = {}
    others = [name for name in (*layout.family.more(fields), asked) if name is not None and known_backbone(name)]
    for name in dict.fromkeys((*list_models(), *others)):
        config = backbone_entry(name).config
        if type(config) is layout.family.config_class:
            differences[name] = [
                f"{field} {value} (there {getattr(config, field)})"
                for field, value in fields.items()
                if value != getattr(config, field)
            ]
    shown = asked if asked in differences else min(differences, key=lambda name: len(differences[name]))
    if asked is not None and asked not in differences:
        raise WeightsError(f"{source.where} is a {layout.title} file, and '{asked}' is no {layout.family.name}")
    if differences[shown]:
        told = "was asked for, but the file has" if asked else "is the nearest known architecture; the file has"
        raise WeightsError(f"{source.where} ({layout.title}): '{shown}' {told} {', '.join(differences[shown])}")
    return shown


def _size(layout: Layout, fields: dict[str, Any], found: Found, asked: int | Size | None, source: Source) -> Size:
    if asked is not None:
        return (asked, asked) if isinstance(asked, int) else (int(asked[0]), int(asked[1]))
    try:
        return layout.family.native_size(fields, found.arrays)
    except WeightsError as error:
        raise WeightsError(f"{source.where} ({layout.title}): {str(error).removeprefix('source: ')}") from None


def _expected(name: str, size: Size, source: Source) -> dict[str, tuple[int, ...]]:
    """Shapes of everything a backbone of that image size holds, by our paths."""
    try:
        parts = split_state(create_backbone(name, size, 0.0, Scope(path="backbone", abstract=True)))
    except ConfigError as error:
        raise WeightsError(f"{source.where}: {error}") from None
    shapes = {}
    for tree in (parts.trainable, parts.frozen, parts.stats):
        shapes |= {f"backbone/{path}": tuple(value.shape) for path, value in flatten(tree).items()}
    return shapes


def _check(
    found: Found, expected: Mapping[str, tuple[int, ...]], layout: Layout, source: Source, name: str, resized: str
) -> None:
    """Raises one error with everything that does not fit; shapes of paths like `resized` may differ in their rows."""
    arrays = found.arrays
    body = {path for path in arrays if path.startswith("backbone/") and "/adapter/" not in path}
    missing = [_theirs(layout, path) for path in sorted(set(expected) - body)]
    unexpected = [_theirs(layout, path) for path in sorted(body - set(expected))]
    shapes = [
        f"{_theirs(layout, path)} {arrays[path].shape} (expected {expected[path]})"
        for path in sorted(body & set(expected))
        if not _shape_fits(arrays[path].shape, expected[path], re.fullmatch(resized, path) is not None)
    ]
    kinds = [f"{_theirs(layout, p)} ({a.dtype})" for p, a in arrays.items() if a.dtype not in FLOATING]
    wild = [_theirs(layout, p) for p, a in arrays.items() if a.dtype in FLOATING and not _finite(a)]
    problems = some("missing", missing, _SHOWN) + some("without a place in it", unexpected, _SHOWN)
    problems += some("of another shape", shapes, _SHOWN) + some("not floating-point", kinds, _SHOWN)
    problems = _problems(found, problems + some("with NaN or infinity", wild, _SHOWN))
    if problems:
        raise WeightsError(f"{source.where} ({layout.title}) does not fit '{name}': {'; '.join(problems)}")


def _problems(found: Found, others: list[str]) -> list[str]:
    return [*others, *some("of unknown name", sorted(found.unknown), _SHOWN), *found.problems[:_SHOWN]]


def _shape_fits(got: tuple[int, ...], expected: tuple[int, ...], resized: bool) -> bool:
    if resized:
        return len(got) == len(expected) and got[1:] == expected[1:] and got[0] > 0
    return tuple(got) == expected


def _finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array.astype(np.float32) if array.dtype.itemsize < 4 else array).all())


def _theirs(layout: Layout, path: str) -> str:
    """The layout's name of one of our paths, in messages."""
    found = layout.table.theirs_of(path)
    return path if found is None else found[0][0]


def _describe(
    source: Source, layout: Layout, name: str, arrays: Mapping[str, np.ndarray], prefixed: bool
) -> dict[str, str]:
    entry = backbone_entry(name)
    described = {
        "architecture": name,
        "layout": layout.name,
        "prefixed": "yes" if prefixed else "no",
        "source": printable(source.path.name),
        "source_sha256": source.sha256,
        "mean": json_text(entry.mean, ascii=True),
        "std": json_text(entry.std, ascii=True),
    }
    if "head/kernel" in arrays:
        described["classes"] = str(arrays["head/kernel"].shape[-1])
    if source.config is not None:
        described["source_config"] = json_text(source.config, ascii=True)
    return described


def _counts(ignored: Mapping[str, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in ignored.values():
        counts[reason] = counts.get(reason, 0) + 1
    return counts


def _few(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"
