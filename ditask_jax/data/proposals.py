"""What the label files of a folder look like, and which declaration of a task would read them: a proposal to look at.

Values are counted, never trusted: a file does not say whether 255 is a class or no label, or what 3 stands for. So a
proposal says what it saw, and in words what only its owner can know.
"""

import dataclasses
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.declared_labels import ENDINGS, is_coloured, packed_colours
from ditask_jax.data.folder import IMAGE_ENDINGS, label_folders
from ditask_jax.errors import DataError
from ditask_jax.labels import IGNORE

_MOST_FILES = 100
_MOST_COLOURS = 64
_SMOOTH = 40  # a class map holds fewer classes in one image, a map of shades more levels
_MOST_NAMES = 40  # beyond, the number of classes stands for their names
_SHOWN = 10
_DEPTH = re.compile(r"depth|disparit|distance")
_UNIT_LENGTH = 0.1


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What was found in a folder.

    Attributes:
      name: of the task, made from that of the folder.
      found: what the files hold.
      declaration: values of `task.NAME.*` by option; empty where nothing fits.
      ask: what only the owner of the files can tell; "" for nothing.
    """

    name: str
    found: str
    declaration: dict[str, Any]
    ask: str = ""


class _Seen:
    """What the files of one folder hold, gathered file by file."""

    def __init__(self) -> None:
        self.forms: dict[str, None] = {}
        self.values: set[int] = set()
        self.distinct: list[int] = []
        self.colours = np.zeros(1 << 24, bool)
        self.coloured = self.files = 0
        self.low, self.high = np.inf, -np.inf
        self.whole, self.unknown = True, False
        self.vectors = 0  # files in which nearly every pixel is a unit vector
        self.floats = 0

    def add(self, path: Path) -> None:
        """Takes in a file; DataError where it cannot be read as any label."""
        self.files += 1
        if path.suffix.lower() == ".npy":
            return self._add_array(image_files.read_array(path), path)
        content = image_files.read_bytes(path)
        if is_coloured(content):
            colours = image_files.decode_colours(content, path)
            if (colours != colours[..., :1]).any():
                return self._add_colours(colours)
            numbers, form = colours[..., 0], "grey images in three channels"
        else:
            numbers = image_files.decode_indices(content, path)
            form = f"{8 * numbers.dtype.itemsize}-bit images"
        return self._add_whole(numbers, form)

    def _add_array(self, array: np.ndarray, path: Path) -> None:
        form = f"arrays of {array.dtype}"
        array = image_files.one_channel(array)
        if array.ndim == 3 and array.shape[-1] == 3 and array.dtype.kind == "f":
            self.forms[f"{form} [H, W, 3]"] = None
            self.vectors += _are_unit_vectors(array[np.isfinite(array).all(-1) & array.any(-1)])
            return
        if array.ndim != 2 or array.dtype.kind not in "buif" or not array.size:
            raise DataError(f"data: {path} holds {array.dtype} {list(array.shape)}; labels are [H, W] or [H, W, 3]")
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        self.unknown |= finite.size < array.size
        if array.dtype.kind == "f" and (finite != np.floor(finite)).any():
            self.forms[form] = None
            self.floats += 1
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
            return
        self._add_whole(finite.astype(np.int64), form)

    def _add_whole(self, numbers: np.ndarray, form: str) -> None:
        self.forms[form] = None
        if numbers.dtype.kind == "u" and numbers.dtype.itemsize <= 2:  # in place of sorting millions of pixels
            values = np.flatnonzero(np.bincount(numbers.reshape(-1)))
        else:
            values = np.unique(numbers)
        self.distinct.append(len(values))
        if values.size:
            self.low, self.high = min(self.low, float(values[0])), max(self.high, float(values[-1]))
        if len(self.values) <= 2**16:
            self.values.update(values.tolist())

    def _add_colours(self, colours: np.ndarray) -> None:
        self.forms["colour images"] = None
        self.coloured += 1
        self.colours[packed_colours(colours).reshape(-1)] = True
        vectors = image_files.colours_to_vectors(colours)
        self.vectors += _are_unit_vectors(vectors[vectors.any(-1)])


def _are_unit_vectors(vectors: np.ndarray) -> bool:
    """Whether nearly all of the vectors have length one."""
    length = np.linalg.norm(vectors, axis=-1)
    return bool(length.size) and float((np.abs(length - 1) < _UNIT_LENGTH).mean()) > 0.9


def propose(split: Path, read: Collection[str], every_file: bool = False) -> list[Proposal]:
    """Looks into the folders of a split that no task reads.

    Args:
      split: for example `ROOT/train`.
      read: names of folders that tasks read already.
      every_file: look at all files; else at a hundred of each folder, evenly spread.
    """
    images = {path.stem for path in _files(split / "images", IMAGE_ENDINGS)}
    found, names = [], set(read)
    for folder in label_folders(split):
        files = _files(split / folder, ENDINGS)
        if folder == "images" or folder in read or not files:
            continue
        name = _task_name(folder, names)
        names.add(name)
        chosen = files if every_file or len(files) <= _MOST_FILES else files[:: -(-len(files) // _MOST_FILES)]
        labelled = len(images & {path.stem for path in files})
        start = f"{labelled} of {len(images)} images have one" + (
            f"; {len(chosen)} of {len(files)} files looked at" if len(chosen) < len(files) else ""
        )
        try:
            seen = _Seen()
            for path in chosen:
                seen.add(path)
        except DataError as error:
            found.append(Proposal(name, f"{start}; {str(error).removeprefix('data: ')}", {}))
            continue
        words, said, ask = _guess(folder, seen)
        if name != folder and said:
            said = {"kind": said["kind"], "folder": folder} | said
        found.append(Proposal(name, f"{start}; {', '.join(seen.forms)}: {words}", said, ask))
    return found


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.name[0] != ".")


def _task_name(folder: str, taken: Collection[str]) -> str:
    name = re.sub(r"[^a-z0-9_]+", "_", folder.lower()).strip("_") or "labels"
    name = name if name[0].isalpha() else f"labels_{name}"
    name = f"{name}_labels" if name.endswith("shared") or name in ("image", "id") else name
    return name if name == folder or name not in taken else f"{name}_labels"


def _guess(folder: str, seen: _Seen) -> tuple[str, dict[str, Any], str]:
    """What the files hold, in words; the declaration; what to ask."""
    if seen.vectors == seen.files:
        return "unit vectors", {"kind": "normals"}, "x must point right and y down"
    if seen.coloured:
        return _guess_colours(seen)
    if not seen.distinct and not seen.floats:
        return "no unit vectors, no numbers [H, W]", {}, ""
    if seen.floats or np.median(seen.distinct) > _SMOOTH:
        return _guess_numbers(folder, seen)
    return _guess_classes(seen)


def _guess_colours(seen: _Seen) -> tuple[str, dict[str, Any], str]:
    colours = np.flatnonzero(seen.colours).tolist()
    if seen.coloured < seen.files:
        return f"{seen.coloured} of them in colours, the others not", {}, "save all of them in one way"
    if len(colours) > _MOST_COLOURS:
        return f"{len(colours)} colours", {}, "are they labels with blurred borders? Save them as PNG, not resized"
    texts = tuple(f"#{colour:06x}" for colour in colours)
    said = {"kind": "classes", "classes": _class_names(len(colours), colours[0] == 0), "colours": texts}
    return f"{len(colours)} colours {_listed(texts)}", said, "a colour that is no label goes into ignore"


def _guess_numbers(folder: str, seen: _Seen) -> tuple[str, dict[str, Any], str]:
    words = f"{seen.low:.4g} to {seen.high:.4g}" + (", some not finite (no label)" if seen.unknown else "")
    is_image = any("images" in form for form in seen.forms)
    if _DEPTH.search(folder.lower()) and seen.low >= 0 and not any(form.startswith("8-bit") for form in seen.forms):
        if seen.floats:
            return words, {"kind": "depth"}, "are these metres? If not, say the factor: scale"
        scale = {} if is_image else {"scale": 0.001}
        return words, {"kind": "depth"} | scale, "taken for millimetres; scale is the factor to metres"
    if any(form.startswith(("8-bit", "grey")) for form in seen.forms):
        scale = {"scale": 1 / 255}
    elif is_image and seen.high > 4096:
        scale = {"scale": 1 / 65535}
    else:
        largest = max(abs(seen.low), abs(seen.high), 1e-30)
        scale = {} if 0.1 <= largest <= 10 else {"scale": float(10.0 ** -np.ceil(np.log10(largest)))}
    ask = "scaled to about 1; scale and unit are yours to say" if scale else "unit is yours to say"
    return words, {"kind": "regression"} | scale, f"{ask}, and ignore where a value means no label"


def _guess_classes(seen: _Seen) -> tuple[str, dict[str, Any], str]:
    values = sorted(seen.values)
    words = f"the value{'s' * (len(values) > 1)} {_listed(values)}"
    if len(values) < 2:
        return words, {}, "there is nothing to learn from one value"
    if len(values) == 2 and values[0] == 0:
        return words, {"kind": "mask"}, f"taken for yes: {values[1]}"
    if values == [0, 1, IGNORE]:
        return words, {"kind": "mask", "ignore": IGNORE}, f"taken for no label: {IGNORE}"
    ignored = [value for value in values if value < 0]
    ids = [value for value in values if value >= 0]
    others = [value for value in ids if value != IGNORE]
    if len(others) < len(ids) and len(others) > 1 and _is_dense(others):
        ids, ignored = others, [*ignored, IGNORE]
    said: dict[str, Any] = {"kind": "classes"}
    if _is_dense(ids):
        start = min(ids[0], 1)  # from 0 or 1 up; what lies between may stand in other files
        numbers = list(range(start, ids[-1] + 1))
        said["classes"] = _class_names(len(numbers), start == 0)
        said |= {"ids": tuple(numbers)} if start else {}
    else:
        said["classes"] = _class_names(len(ids), ids[0] == 0)
        said["ids"] = tuple(ids)
    if ignored and ignored != [IGNORE]:
        said["ignore"] = ignored[0] if len(ignored) == 1 else tuple(ignored)
    asks = [f"taken for no label: {_listed(ignored)}"] if ignored else []
    if IGNORE in ids:
        asks.append(f"{IGNORE} is taken for a class; if it is no label, leave it out of ids and of classes")
    return words, said, "; ".join([*asks, "put your names of the classes in"])


def _is_dense(ids: Sequence[int]) -> bool:
    """Whether numbers look as if they were counted up, some of them perhaps unseen."""
    return len(ids) > 0 and ids[-1] < 2 * len(ids) + 4 and ids[0] <= len(ids)


def _class_names(count: int, has_background: bool) -> tuple[str, ...] | int:
    if count > _MOST_NAMES:
        return count
    return tuple("background" if has_background and k == 0 else f"class_{k}" for k in range(count))


def _listed(values: Sequence) -> str:
    shown = " ".join(str(value) for value in values[:_SHOWN])
    return shown + (f" ... {values[-1]} ({len(values)} in all)" if len(values) > _SHOWN else "")


def proposal_lines(root: Path, proposals: Sequence[Proposal], others: Sequence[str]) -> list[str]:
    """The proposals as text: what was seen, and options of a training to paste.

    Args:
      root: the folder of the data set.
      proposals: what `propose` found.
      others: tasks that are known already, and go before these.
    """
    width = max(len(proposal.name) for proposal in proposals)
    lines = ["folders of train/ that no task reads yet, and what would read them:"]
    for proposal in proposals:
        kind = proposal.declaration.get("kind", "no kind of label that is read")
        lines.append(f"  {proposal.name:<{width}}  {kind}: {proposal.found}")
        if proposal.ask:
            lines.append(f"  {'':<{width}}  look: {proposal.ask}")
    good = [proposal for proposal in proposals if proposal.declaration]
    if not good:
        return lines
    tasks = "+".join([*others, *(proposal.name for proposal in good)])
    groups = [f"--config.data.name=folder {_option('data.root', str(root))} --config.tasks={tasks}"]
    for proposal in good:
        said = proposal.declaration.items()
        groups.append(" ".join(_option(f"task.{proposal.name}.{key}", value) for key, value in said))
    lines.append("as options of train, describe, preflight and, to check them, of this command:")
    return [*lines, *(f"  {group} \\" for group in groups[:-1]), f"  {groups[-1]}"]


def _option(field: str, value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return shlex.quote(f"--config.{field}={text}")
