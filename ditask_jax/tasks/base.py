"""What a task is: output channels, loss, decoding, metric sums, scores and images, behind one interface.

Metrics are sums. `metric_sums` turns a batch into arrays whose leading axes run over images (and, for real-valued
quantities, over image rows); `accumulate` adds them on the host in int64 and float64, image by image and in order;
`finalize` turns totals into scores. Counts therefore do not depend on how examples are split into batches or over
devices, and real-valued totals depend on it only through the last bit of single pixels.
"""

import abc
import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.errors import ConfigError, defined_in
from ditask_jax.labels import LabelSpec

IGNORED_COLOUR = (255, 255, 255)
"""Colour of pixels without a label in class maps."""

MISSING_COLOUR = (0, 0, 0)
"""Colour of pixels without a label in normals and depth."""

IGNORED_BINARY_COLOUR = (200, 60, 60)
"""Colour of pixels without a label in grey images, where white means one."""


UNITS = {
    "fraction": (100.0, "%"),
    "degrees": (1.0, "deg"),
    "metres": (1.0, "m"),
    "pixels": (1.0, "px"),
    "inverse": (1.0, "1/m"),
}
"""Units written out -> factor and symbol that a score is shown with; any other unit is shown as it is."""

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Swatch:
    """One entry of a key of colours.

    Attributes:
      text: what the colour stands for.
      colours: one for a field, several for a bar from the first to the last; none for plain text.
    """

    text: str
    colours: tuple[Colour, ...] = ()


@dataclasses.dataclass(frozen=True)
class RawForm:
    """How the predictions of a task are stored as files.

    Attributes:
      ending: ".npy" (any array), ".png" (uint8 or uint16 `[H, W]` or `[H, W, 3]`) or ".json" (plain data).
      describes: what the files hold, for people and programs: `holds`, and `unit` where there is one; plain data.
      encode: from the prediction of one image to the array, or the plain data, of its file.
      palette: colours uint8 `[256, 3]` of a PNG whose pixels are numbers of colours.
    """

    ending: str
    describes: Mapping[str, Any]
    encode: Callable[[np.ndarray], Any] = lambda prediction: prediction
    palette: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """One prediction task.

    Shapes: logits `[B, H, W, num_outputs]` at the resolution of the label (`[B, num_outputs]` for a class per image);
    labels as in a batch; `valid` `[B]`, False for padded examples, which count nowhere.

    Attributes:
      name: task id, the key of its label, logits and scores.
      num_outputs: channels of the logits.
      loss_weight: factor of the loss in the total.
      primary_metric: the score that enters delta_m.
      higher_is_better: direction of the primary metric.
      unit: unit of the primary metric: "fraction" (shown in per cent) or a word of `UNITS`, or any other text, such as
        "mm", which is shown as it is; "" for none.
      on_host: True when scoring runs in NumPy on the host: `host_sums(decode(logits), label, valid)` takes the place
        of `metric_sums`.
      declaration: of a task that a configuration declares, what it was made from, as JSON; "" for those of code.
    """

    name: str
    num_outputs: int
    loss_weight: float
    primary_metric: str
    higher_is_better: bool
    unit: str
    on_host: bool = False
    declaration: str = ""

    @property
    @abc.abstractmethod
    def label_spec(self) -> LabelSpec:
        """How the label map behaves under joint augmentation."""

    @property
    def is_map(self) -> bool:
        """Whether logits and label are maps, not one vector and one class per image."""
        return self.label_spec.is_map

    @property
    @abc.abstractmethod
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every total; an array of `metric_sums` has these as its last axes, images and rows before them."""

    @abc.abstractmethod
    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Unweighted loss over the whole batch, a float32 scalar; 0 with zero gradient when no pixel is valid."""

    @abc.abstractmethod
    def decode(self, logits: jax.Array) -> jax.Array:
        """Prediction in the units of the label: class ids, probabilities, unit normals, depth ...

        Shapes: `[B, H, W]` or `[B, H, W, K]` of maps, pixel by pixel (`predict` decodes an image in strips); `[B]` or
        `[B, K]` of what is said of a whole image.
        """

    def metric_sums(
        self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None
    ) -> dict[str, jax.Array] | None:
        """Partial sums of a batch, for `accumulate`; safe under `jax.jit`; None where `on_host`."""
        del logits, label, valid
        return None

    def host_sums(
        self, prediction: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Partial sums of a batch of decoded predictions, in NumPy; only where `on_host`."""
        raise NotImplementedError(f"{self.name} is scored on the device: use metric_sums")

    @property
    def shown_unit(self) -> tuple[float, str]:
        """Factor and symbol that a score is shown with.

        >>> from ditask_jax.tasks import Depth
        >>> Depth().shown_unit, Depth(unit="mm").shown_unit
        ((1.0, 'm'), (1.0, 'mm'))
        """
        return UNITS.get(self.unit, (1.0, self.unit))

    def score_text(self, score: float) -> str:
        """A primary score with its unit, as people read it.

        >>> from ditask_jax.tasks import Depth, Saliency
        >>> Saliency().score_text(0.5), Depth(unit="mm").score_text(3.0), Depth(unit="").score_text(3.0)
        ('50.00 %', '3.00 mm', '3.00')
        """
        factor, symbol = self.shown_unit
        return f"{score * factor:.2f} {symbol}".strip()

    @property
    def value_unit(self) -> str:
        """Symbol of the unit of predictions and labels; "" for none. Here: that of the score, unless it is a share."""
        return "" if self.unit == "fraction" else self.shown_unit[1]

    def raw_form(self, format: str) -> RawForm:
        """How predictions are stored. Here: maps as arrays, just as decoded; what is said of an image as JSON.

        Args:
          format: "npy" or "png", as the user asked; a task that has no image of whole numbers stays with "npy".
        """
        del format
        unit = {"unit": self.value_unit} if self.value_unit else {}
        if self.is_map:
            return RawForm(".npy", {"holds": "array [H, W] or [H, W, K], as the task decodes it"} | unit)

        def encode(prediction: np.ndarray) -> dict[str, Any]:
            caption = self.caption(prediction)
            return {"value": np.asarray(prediction).tolist()} | ({"caption": caption} if caption else {})

        return RawForm(".json", {"holds": "the value of the whole image"} | unit, encode)

    @abc.abstractmethod
    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """Colour image uint8 `[H, W, 3]` of one prediction or label; of maps in their own height and width.

        `value_range` is what the method of that name found in the label, so that both are drawn on one scale.
        """

    def picture(self, value: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """What `render` draws, checked.

        Raises:
          ConfigError: it is no uint8 `[H, W, 3]`.
        """
        drawn = np.asarray(self.render(value, value_range))
        if drawn.dtype != np.uint8 or drawn.ndim != 3 or drawn.shape[-1] != 3 or 0 in drawn.shape:
            raise _wrong(self, f"render returned {_words(drawn)}, expected a colour image, uint8 [H, W, 3]")
        return drawn

    def colour_key(self, values: Sequence[np.ndarray] | None = None) -> list[Swatch]:
        """What the colours of images stand for; empty where no key is needed.

        Args:
          values: the predictions and labels that are shown; None: whatever may occur.
        """
        del values
        return []

    def colour_words(self) -> str:
        """The same in words, one line; "" for nothing."""
        return ""

    def range_note(self, value_range: tuple[float, float] | None) -> str:
        """What stands below an image whose colours span a range of values.

        >>> from ditask_jax.tasks import Depth
        >>> Depth().range_note((0.5, 12.25))
        '0.5 to 12.2 m'
        """
        if value_range is None:
            return ""
        low, high = value_range
        return f"{low:.3g} to {high:.3g} {self.value_unit}".strip()

    def class_ids(self, value: np.ndarray) -> np.ndarray | None:
        """Class ids `[H, W]` whose numbers are written into their areas; None for no numbers."""
        del value
        return None

    @property
    def limits(self) -> str:
        """A sentence for the limits of a model card: what predictions must not be taken for; "" for none."""
        return ""

    def caption(self, value: np.ndarray) -> str:
        """What to write on the image of one prediction or label; nothing for maps."""
        del value
        return ""

    def value_range(self, label: np.ndarray) -> tuple[float, float] | None:
        """Range of values to render predictions and label on one scale; None where the scale is fixed."""
        del label
        return None

    @abc.abstractmethod
    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Scores of exact totals (shapes as in `sum_shapes`)."""

    def _details(self, total: Mapping[str, np.ndarray]) -> dict[str, Any]:
        del total
        return {}

    def accumulate(
        self, total: Mapping[str, np.ndarray] | None, batch_sums: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Adds the sums of one batch to a running total (None at the start) in int64 and float64; changes neither.

        Images are added one after another, so totals do not depend on where batches end, to the last bit.
        """
        result = {}
        for name, shape in self.sum_shapes.items():
            per_image = _per_image(np.asarray(batch_sums[name]), tuple(shape))
            running = np.zeros(shape, per_image.dtype) if total is None else total[name]
            for image in per_image:
                running = running + image
            result[name] = np.asarray(running)
        return result

    def finalize(self, total: Mapping[str, np.ndarray] | None) -> dict[str, float]:
        """Scores of a total (or of the sums of a single batch): fractions in 0..1, degrees, metres.

        A score that nothing was measured for (no labelled pixel in the whole split), or that is no finite number, is
        unknown and left out. The mean over classes counts a class that is absent as 0, as published scores do.
        """
        if total is None:
            return {}
        try:
            with np.errstate(divide="ignore", invalid="ignore"):
                scores = self._scores(self._complete(total))
        except ZeroDivisionError:  # a mean over nothing, as Python's own numbers say it
            return {}
        found = {name: float(value) for name, value in scores.items() if value is not None}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def details(self, total: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
        """Finer results behind the scores, ready for JSON: per class, per threshold; empty without scores."""
        return _plain(self._details(self._complete(total))) if self.finalize(total) else {}

    def _complete(self, total: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if all(np.shape(total[name]) == tuple(shape) for name, shape in self.sum_shapes.items()):
            return total
        return self.accumulate(None, total)


def _plain(value: Any) -> Any:
    """Arrays and NumPy numbers in nested results as lists and numbers."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | np.generic | jax.Array) else value


def _per_image(sums: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Collapses rows: `[B, ..., *shape]` to `[B, *shape]` in int64 or float64."""
    dtype = np.int64 if sums.dtype.kind in "iub" else np.float64
    return sums.reshape(len(sums), -1, *shape).sum(axis=1, dtype=dtype) if len(sums) else np.zeros((0, *shape), dtype)


def valid_images(valid: jax.Array | None, images: int) -> jax.Array:
    """The mask `[B, 1, 1]` of real (not padded) examples; None means all."""
    mask = jnp.ones((images,), bool) if valid is None else jnp.asarray(valid).astype(bool)
    return mask.reshape(images, 1, 1)


def mean_over(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the values where the mask holds; 0 with zero gradient where it holds nowhere."""
    count = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1).astype(jnp.float32)
    return jnp.sum(jnp.where(mask, values, 0.0)) / count


def multi_task_loss(
    tasks: tuple[Task, ...],
    logits: Mapping[str, jax.Array],
    labels: Mapping[str, jax.Array],
    valid: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted total of the task losses, and the unweighted loss of each task.

    >>> import jax.numpy as jnp
    >>> from ditask_jax.tasks import create_tasks
    >>> depth = create_tasks("depth", dataset="nyud")
    >>> total, losses = multi_task_loss(depth, {"depth": jnp.ones((1, 2, 2, 1))}, {"depth": jnp.full((1, 2, 2), 3.0)})
    >>> float(total), float(losses["depth"])
    (2.0, 2.0)
    """
    losses = {task.name: _checked_loss(task, logits[task.name], labels[task.name], valid) for task in tasks}
    return sum((task.loss_weight * losses[task.name] for task in tasks), jnp.zeros((), jnp.float32)), losses


def _checked_loss(task: Task, logits: jax.Array, label: jax.Array, valid: jax.Array | None) -> jax.Array:
    loss = task.loss(logits, label, valid)
    if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        found = f"{loss.dtype} {list(loss.shape)}" if hasattr(loss, "shape") else f"a {type(loss).__name__}"
        raise _wrong(
            task,
            f"loss returned {found}, expected one number, float32 [] (logits {_words(logits)}, label {_words(label)})",
        )
    return loss


_FIELDS = (
    ("num_outputs", numbers.Integral, "a whole number from 1 on"),
    ("loss_weight", numbers.Real, "a number"),
    ("primary_metric", str, "the name of a score"),
    ("higher_is_better", bool | np.bool_, "True or False"),
    ("unit", str, 'a text, "" for no unit'),
)


def check_task(task: Task) -> None:
    """Checks, before anything is trained, that the methods of a task fit each other; from shapes alone.

    Raises:
      ConfigError: a loss, decoded prediction or sum of another shape than `Task` says, or a method that is missing.

    >>> from ditask_jax.tasks import Depth
    >>> check_task(Depth())
    """
    for field, kind, words in _FIELDS:
        if not isinstance(value := getattr(task, field), kind) or (field == "num_outputs" and value < 1):
            raise _wrong(task, f"{field}: got {value!r}, expected {words}")
    spec, images, size = task.label_spec, 2, (8, 8)
    if not isinstance(spec, LabelSpec) or spec.name != task.name:
        raise _wrong(task, f"label_spec is {spec!r}, expected LabelSpec(name='{task.name}', ...)")
    shape = (images, *size) if task.is_map else (images,)
    logits = jax.ShapeDtypeStruct((*shape, task.num_outputs), jnp.float32)
    label = jax.ShapeDtypeStruct((images, *spec.shape(size)), spec.dtype)
    valid = jax.ShapeDtypeStruct((images,), bool)
    jax.eval_shape(functools.partial(_checked_loss, task), logits, label, valid)
    check_decoded(task, shape)
    if task.on_host:
        if type(task).host_sums is Task.host_sums:
            raise _wrong(task, "on_host is True, but there is no host_sums(prediction, label, valid)")
        _check_scores(task, {})
        return
    sums = jax.eval_shape(task.metric_sums, logits, label, valid)
    check_sums(task, sums, images)
    _check_scores(task, {name: np.float64 for name in task.sum_shapes if sums[name].dtype.kind not in "iub"})


def _check_scores(task: Task, types: Mapping[str, type]) -> None:
    """Tries the scores of totals that are 1 throughout; whole numbers where `types` names no other type."""
    total = {name: np.ones(shape, types.get(name, np.int64)) for name, shape in task.sum_shapes.items()}
    try:
        with np.errstate(all="ignore"):
            scores = task._scores(total)
    except (ArithmeticError, ValueError, IndexError):
        return  # of totals that no image has, perhaps
    if not isinstance(scores, Mapping):
        raise _wrong(task, f"_scores returned a {type(scores).__name__}, expected scores by name")
    if scores and task.primary_metric not in scores:
        raise _wrong(task, f"_scores returned {' '.join(scores)}, but primary_metric is {task.primary_metric}")
    for name, score in scores.items():
        if np.size(score) != 1 or not isinstance(score, numbers.Real | np.ndarray | jax.Array):
            raise _wrong(task, f"_scores: '{name}' is {score!r}, expected one number")


def check_decoded(task: Task, shape: tuple[int, ...]) -> Any:
    """What a task decodes logits `[*shape, outputs]` to, as shape and type.

    Raises:
      ConfigError: no array, or one that does not begin with `shape`.
    """
    found = jax.eval_shape(task.decode, jax.ShapeDtypeStruct((*shape, task.num_outputs), jnp.float32))
    if not hasattr(found, "shape") or found.shape[: len(shape)] != shape or len(found.shape) > len(shape) + 1:
        kinds = "[B, H, W] or [B, H, W, K]" if task.is_map else "[B] or [B, K]"
        given = _words(found) if hasattr(found, "shape") else f"a {type(found).__name__}"
        raise _wrong(task, f"decode makes {given} of logits {[*shape, task.num_outputs]}, expected one array, {kinds}")
    return found


def check_sums(task: Task, sums: Mapping[str, Any] | None, images: int) -> None:
    """Raises ConfigError unless the sums of a batch are those of `sum_shapes`, image by image."""
    if not isinstance(sums, Mapping) or set(task.sum_shapes) - set(sums):
        given = " ".join(sums) or "none" if isinstance(sums, Mapping) else type(sums).__name__
        name = "host_sums" if task.on_host else "metric_sums"
        raise _wrong(task, f"{name} returned {given}, but sum_shapes names {' '.join(task.sum_shapes)}")
    for name, shape in task.sum_shapes.items():
        have, ending = np.shape(sums[name]), tuple(shape)
        if len(have) <= len(ending) or have[0] != images or have[len(have) - len(ending) :] != ending:
            wanted = ", ".join(map(str, (images, "...", *ending)))
            raise _wrong(
                task,
                f"the sum '{name}' of {images} images has shape {list(have)}, expected [{wanted}]: a sum per image",
            )


def _words(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _wrong(task: Task, text: str) -> ConfigError:
    return ConfigError(f"task '{task.name}' ({defined_in(task)}): {text}")
