"""What is in the labels of a few examples, in one line per label: class shares, ranges, how much is labelled."""

from collections.abc import Mapping

import numpy as np

from ditask_jax.labels import IGNORE, unpack_annotators

_SHOWN_CLASSES = 8


class LabelStatistics:
    """Gathers one kind of label over examples.

    Args:
      num_classes: of a class map; None for continuous maps.
      unit: of continuous maps, as shown.
      zero_is_missing: of continuous maps; if not, zero is a value and `IGNORE` is missing.

    >>> statistics = LabelStatistics(3)
    >>> statistics.add(np.array([[0, 0], [1, 255]], np.uint8))
    >>> statistics.text()
    'classes 0: 50.0 %, 1: 25.0 %, ignored: 25.0 %; not seen: 2'
    """

    def __init__(self, num_classes: int | None = None, unit: str = "", zero_is_missing: bool = True) -> None:
        self._num_classes = num_classes
        self._unit = unit
        self._missing = 0 if zero_is_missing else IGNORE
        self._counts = np.zeros(256, np.int64)
        self._pixels = self._labelled = self._maps = self._empty = 0
        self._range = [np.inf, -np.inf]
        self._sum = np.zeros(3)
        self._lengths = [np.inf, -np.inf]
        self._directions = False
        self._whole = True
        self._annotators: set[int] = set()

    def add(self, label: np.ndarray) -> None:
        """Takes in one label: uint8 or uint16 [H, W], float32 [H, W] or float32 [H, W, 3]."""
        self._maps += 1
        self._pixels += label.shape[0] * label.shape[1]
        if label.ndim == 3:
            self._add_directions(label)
        elif label.dtype == np.uint16:
            masks, known = unpack_annotators(label)
            self._annotators.add(len(masks))
            self._counts += np.bincount(np.where(known, masks.sum(0), IGNORE).reshape(-1), minlength=256)
        elif label.dtype == np.uint8:
            self._counts += np.bincount(label.reshape(-1), minlength=256)
            self._empty += not ((label != 0) & (label != IGNORE)).any()
        else:
            known = label[label != self._missing]
            self._labelled += known.size
            if known.size:
                self._range = [min(self._range[0], known.min()), max(self._range[1], known.max())]
                self._whole = self._whole and bool((known == np.floor(known)).all())

    def _add_directions(self, label: np.ndarray) -> None:
        self._directions = True
        known = label[label.any(-1)]
        self._labelled += len(known)
        if len(known):
            lengths = np.linalg.norm(known, axis=-1)
            self._lengths = [min(self._lengths[0], lengths.min()), max(self._lengths[1], lengths.max())]
            self._sum += (known / lengths[:, None]).sum(0)

    def is_ignored_everywhere(self) -> bool:
        """Whether something was read and none of it is a label."""
        return bool(self._maps) and not self._labelled and not self._counts[:IGNORE].any()

    def absent(self) -> list[int]:
        """Classes that no label held."""
        return [k for k in range(self._num_classes or 0) if not self._counts[k]]

    def is_one_class_and_ignored(self) -> bool:
        """Whether the maps hold a single class, and pixels that are ignored."""
        return np.count_nonzero(self._counts[:IGNORE]) == 1 and bool(self._counts[IGNORE])

    def looks_like_millimetres(self) -> bool:
        """Whether all distances are whole numbers, and large ones among them."""
        return bool(self._labelled) and self._whole and self._range[1] > 100

    def text(self) -> str:
        """One line."""
        if not self._maps:
            return "nothing read"
        if self._directions:
            return self._directions_text()
        if self._counts.any():
            return self._classes_text()
        if not self._labelled:
            return "nothing labelled"
        low, high = self._range
        return f"{low:.4g} to {high:.4g} {self._unit}".rstrip() + f", {self._share(self._labelled)} labelled"

    def _directions_text(self) -> str:
        if not self._labelled:
            return "nothing labelled"
        mean = " ".join(f"{value:+.2f}" for value in self._sum / self._labelled)
        low, high = self._lengths
        return f"length {low:.2f} to {high:.2f}, mean direction ({mean}), {self._share(self._labelled)} labelled"

    def _classes_text(self) -> str:
        seen = np.flatnonzero(self._counts[:IGNORE])
        order = seen[np.argsort(-self._counts[seen], kind="stable")]
        parts = [f"{number}: {self._share(self._counts[number])}" for number in order[:_SHOWN_CLASSES]]
        rest = order[_SHOWN_CLASSES:]
        if len(rest):
            parts.append(f"{len(rest)} more: {self._share(self._counts[rest].sum())}")
        if self._counts[IGNORE]:
            parts.append(f"ignored: {self._share(self._counts[IGNORE])}")
        if self._annotators:
            few, most = min(self._annotators), max(self._annotators)
            return f"drawn by {few} to {most} annotators; pixels by the number of them: {', '.join(parts)}"
        text = "classes " + ", ".join(parts)
        if absent := self.absent():
            text += f"; not seen: {' '.join(map(str, absent))}"
        if self._empty:
            text += f"; {self._empty} of {self._maps} maps hold class 0 or nothing only"
        return text

    def _share(self, count: int) -> str:
        return f"{100 * count / self._pixels:.1f} %"


class PictureClasses:
    """Gathers classes of whole images.

    >>> statistics = PictureClasses(4)
    >>> for label in (2, 2, 0):
    ...     statistics.add(label)
    >>> statistics.text()
    'classes 2: 66.7 %, 0: 33.3 %; 2 of 4 classes among 3 images'
    """

    def __init__(self, num_classes: int) -> None:
        self._counts = np.zeros(num_classes, np.int64)

    def add(self, label: int) -> None:
        """Takes in the class of one image."""
        self._counts[int(label)] += 1

    def text(self) -> str:
        """One line."""
        total = self._counts.sum()
        if not total:
            return "nothing read"
        order = np.argsort(-self._counts, kind="stable")[: min(_SHOWN_CLASSES, np.count_nonzero(self._counts))]
        shown = ", ".join(f"{number}: {100 * self._counts[number] / total:.1f} %" for number in order)
        seen = np.count_nonzero(self._counts)
        return f"classes {shown}; {seen} of {len(self._counts)} classes among {total} images"


class ImageStatistics:
    """Gathers sizes and values of images.

    >>> statistics = ImageStatistics()
    >>> statistics.add(np.full((4, 6, 3), 128, np.uint8))
    >>> statistics.text()
    '4x6 (height x width), mean colour 128 128 128'
    """

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int]] = []
        self._sum = np.zeros(3)

    def add(self, image: np.ndarray) -> None:
        """Takes in one image, uint8 [H, W, 3]."""
        self._sizes.append(image.shape[:2])
        self._sum += image.reshape(-1, 3).mean(0)

    def text(self) -> str:
        """One line."""
        if not self._sizes:
            return "nothing read"
        low, high = np.min(self._sizes, axis=0), np.max(self._sizes, axis=0)
        size = f"{low[0]}x{low[1]}" + ("" if (low == high).all() else f" to {high[0]}x{high[1]}")
        mean = " ".join(f"{value:.0f}" for value in self._sum / len(self._sizes))
        return f"{size} (height x width), mean colour {mean}"


def gather(class_counts: Mapping[str, int], tasks, depth_unit: str) -> dict:
    """Empty statistics for images and each label."""
    units = {"metres": "m", "pixels": "px", "inverse": "(inverse)"}
    statistics: dict = {"image": ImageStatistics()}
    for task in tasks:
        if task == "classification":
            statistics[task] = PictureClasses(class_counts[task])
        else:
            statistics[task] = LabelStatistics(class_counts.get(task), units.get(depth_unit, ""))
    return statistics
