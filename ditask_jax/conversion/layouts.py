"""What a layout and a family are: names on the one hand, sizes inferred from shapes on the other."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ditask_jax.conversion.names import Found, Table
from ditask_jax.errors import WeightsError
from ditask_jax.weight_files import some

Size = tuple[int, int]
# Arrays or anything else with a shape, by our paths.
Shapes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of backbone, whatever code base its weights come from.

    Attributes:
      name: in messages.
      config_class: of its entries in the registry of backbones.
      infer: the fields of the configuration that shapes tell, from arrays under our paths.
      native_size: the image size that the arrays were made for, as far as they tell, from inferred fields and arrays.
      resized: pattern of the paths whose shape follows from image size or window; loading resizes those.
      more: names of backbones of these fields that `list_models()` does not have.
    """

    name: str
    config_class: type
    infer: Callable[[Shapes], dict[str, Any]]
    native_size: Callable[[dict[str, Any], Shapes], Size]
    resized: str
    more: Callable[[Mapping[str, Any]], list[str]] = lambda fields: []


def _as_they_are(arrays: dict[str, Any]) -> dict[str, Any]:
    return arrays


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names that one code base gives the weights of one family.

    Attributes:
      name: "official", "timm", "huggingface" or "ditask".
      family: whose names.
      table: the names.
      marks: patterns; a file is of this layout if each is found among its names.
      strangers: patterns; none of them may be found.
      ignored: (pattern, reason) of tensors that are left out.
      prefix: stands before every name of a backbone that is part of a classifier.
      bare: names that never carry the prefix.
      buffers: tensors that the code base stores and we compute, for a configuration and an image size.
      unread: (path, reason) of arrays that nothing here would read, from all of a file's under our paths.
      to_ours, to_theirs: what names and axes alone do not do: from all of a file's arrays under our paths to those of
        our model, and back. They raise WeightsError for what the other side cannot hold.
      fits: which of the family's configurations it is for.
    """

    name: str
    family: Family
    table: Table
    marks: tuple[str, ...]
    strangers: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    bare: tuple[str, ...] = ()
    buffers: Callable[[Any, Size], dict[str, np.ndarray]] | None = None
    unread: Callable[[Shapes], dict[str, str]] = lambda arrays: {}
    to_ours: Callable[[dict[str, Any]], dict[str, Any]] = _as_they_are
    to_theirs: Callable[[dict[str, Any]], dict[str, Any]] = _as_they_are
    fits: Callable[[Any], bool] = lambda config: True

    @property
    def title(self) -> str:
        """Both names, as in messages."""
        return f"{self.name} {self.family.name}"

    def resembles(self, names: list[str]) -> bool:
        """Whether a file has the names that tell this layout."""
        short = [name.removeprefix(self.prefix) for name in names]
        return all(any(re.match(mark, name) for name in short) for mark in self.marks)

    def strange(self, names: list[str]) -> list[str]:
        """Names of a file that the layout never has, though it may resemble it otherwise."""
        return [n for n in names if any(re.match(pattern, n.removeprefix(self.prefix)) for pattern in self.strangers)]

    def read(self, arrays: Mapping[str, np.ndarray]) -> tuple[Found, dict[str, str], bool]:
        """Arrays under our paths, (name, reason) of ignored ones, and whether names carried the prefix.

        Raises:
          WeightsError: our model cannot hold what the arrays say.
        """
        ignored, taken, prefixed, twice = {}, {}, False, []
        for name, array in arrays.items():
            short = name.removeprefix(self.prefix) if self.prefix else name
            prefixed |= short != name
            reason = next((why for pattern, why in self.ignored if re.fullmatch(pattern, short)), None)
            if reason is not None:
                ignored[name] = reason
            elif short in taken:
                twice.append(f"'{short}' is there with and without '{self.prefix}'")
            else:
                taken[short] = array
        found = self.table.read(taken)
        found.problems.extend(twice)
        for path, reason in self.unread(found.arrays).items():
            names, _ = self.table.theirs_of(path) or ([path], None)
            ignored |= dict.fromkeys((self._named(name, prefixed) for name in names), reason)
            del found.arrays[path]
        try:
            ours = self.to_ours(dict(found.arrays))
        except WeightsError as error:
            others = [*some("of unknown name", sorted(found.unknown)), *found.problems]
            raise WeightsError("; ".join([str(error), *others])) from None
        return dataclasses.replace(found, arrays=ours), ignored, prefixed

    def write(self, arrays: Mapping[str, np.ndarray], prefixed: bool) -> tuple[dict[str, np.ndarray], list[str]]:
        """Our arrays under the layout's names, and the paths that have none.

        Raises:
          WeightsError: the layout cannot hold them.
        """
        theirs, unknown = self.table.write(self.to_theirs(dict(arrays)))
        return {self._named(name, prefixed): array for name, array in theirs.items()}, unknown

    def _named(self, name: str, prefixed: bool) -> str:
        return name if not prefixed or name.startswith(self.bare) else self.prefix + name


def shape_of(arrays: Shapes, path: str, rank: int) -> tuple[int, ...]:
    """The shape of an array that tells a size.

    Raises:
      WeightsError: it is missing, or of another rank.
    """
    if path not in arrays:
        raise WeightsError(f"source: the architecture cannot be told: there is no tensor for '{path}'")
    shape = tuple(arrays[path].shape)
    if len(shape) != rank or 0 in shape:
        raise WeightsError(f"source: the architecture cannot be told: '{path}' has shape {shape}, expected rank {rank}")
    return shape


def count(arrays: Shapes, template: str) -> int:
    """How many numbers in a row, from 0, have an array: `template` holds one `{}`.

    >>> count({"stages/0/x": 0, "stages/1/x": 0, "stages/3/x": 0}, "stages/{}/")
    2
    """
    number = 0
    while any(path.startswith(template.format(number)) for path in arrays):
        number += 1
    return number


def square_side(rows: int, what: str, advice: str = "give --image-size HEIGHT,WIDTH") -> int:
    """The side of a square of `rows` positions.

    Args:
      rows: how many there are.
      what: the array that holds them.
      advice: what to do where they form none.

    Raises:
      WeightsError: it is no square.
    """
    side = math.isqrt(max(rows, 0))
    if rows < 1 or side * side != rows:
        raise WeightsError(f"source: {what} has {rows} rows, which is no square number; {advice}")
    return side
