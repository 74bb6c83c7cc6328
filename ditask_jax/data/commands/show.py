"""`show`: an example with all its labels, before and after augmentation."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditask_jax import cli
from ditask_jax.data.augment import PRESETS, Augmentation, Draw, sample, transform
from ditask_jax.data.benchmarks import TREES
from ditask_jax.data.commands.build import (
    add_folder_options,
    add_tree_options,
    declared_labels,
    folder,
    folder_options,
    folder_tasks,
    parse_tasks,
    take_fields,
)
from ditask_jax.data.folder import READERS
from ditask_jax.data.sources import OPENERS, open_source
from ditask_jax.data.vtab import vtab_task
from ditask_jax.errors import ConfigError, check_known
from ditask_jax.files import atomic_write_bytes
from ditask_jax.plots.sheet import drawable, new_figure, styled, to_bytes
from ditask_jax.tasks import Task

# Draws an example with its labels: a row per version, a column per task, and below it what its colours say.


_CELL = 2.3
_MOST_CLASSES = 14
_LINE = 34


@styled
def draw_example(path: Path, rows: Sequence[tuple[str, np.ndarray, dict]], tasks: Sequence[Task], title: str) -> Path:
    """Writes the PNG.

    Args:
      path: file to write.
      rows: (description, image uint8 `[H, W, 3]`, labels by task).
      tasks: the columns behind the image.
      title: one line above.
    """
    shown = {task.name: [label[task.name] for _, _, label in rows] for task in tasks}
    legends = [_present(task, shown[task.name]) for task in tasks]
    ratios = [picture.shape[0] / picture.shape[1] for _, picture, _ in rows]
    legend_height = max([0.45, *(0.17 * len(names) + 0.1 for names in legends)])
    heights = [_CELL * ratio for ratio in ratios] + [legend_height]
    size = (_CELL * (1 + len(tasks)) + 0.9, sum(heights) + 0.22 * len(rows) + 0.8)
    figure = new_figure(*size, constrained=True)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    axes = figure.subplots(len(rows) + 1, 1 + len(tasks), squeeze=False, height_ratios=heights)
    for line, (description, picture, labels) in zip(axes, rows, strict=False):
        _show(line[0], picture)
        line[0].set_ylabel(description, fontsize=8)
        for axis, task in zip(line[1:], tasks, strict=True):
            scale = task.value_range(rows[0][2][task.name])
            extent = (0, picture.shape[1], picture.shape[0], 0)
            _show(axis, task.picture(labels[task.name], scale), extent, task.caption(labels[task.name]))
    for axis, name in zip(axes[0], ["image", *(task.name for task in tasks)], strict=True):
        axis.set_title(name, fontsize=10)
    axes[-1][0].set_axis_off()
    for axis, task, names in zip(axes[-1][1:], tasks, legends, strict=True):
        _explain(axis, task, names, rows[0][2][task.name])
    figure.suptitle(drawable(title), fontsize=11)
    return atomic_write_bytes(path, to_bytes(figure, dpi=110))


def _show(axis, picture: np.ndarray, extent=None, caption: str = "") -> None:
    axis.imshow(picture, interpolation="nearest" if picture.shape[0] < 300 else "antialiased", extent=extent)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(True)
    if caption:
        middle = (sum(axis.get_xlim()) / 2, sum(axis.get_ylim()) / 2)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axis.text(*middle, caption, ha="center", va="center", fontsize=8, bbox=box)


def _present(task: Task, labels: Sequence[np.ndarray]) -> list[tuple[str, tuple]]:
    """(name, colour in 0..1) of the fields of colour that occur in labels."""
    fields = [swatch for swatch in task.colour_key(labels) if len(swatch.colours) == 1]
    entries = [(swatch.text, tuple(channel / 255 for channel in swatch.colours[0])) for swatch in fields]
    if len(entries) > _MOST_CLASSES:
        rest = len(entries) - _MOST_CLASSES + 1
        entries = [*entries[: _MOST_CLASSES - 1], (f"and {rest} more", (1.0, 1.0, 1.0))]
    return entries


def _explain(axis, task: Task, names: Sequence[tuple[str, tuple]], label: np.ndarray) -> None:
    from matplotlib.patches import Patch

    axis.set_axis_off()
    if names:
        handles = [Patch(facecolor=colour, edgecolor="0.4", linewidth=0.5, label=name) for name, colour in names]
        axis.legend(handles=handles, loc="upper left", fontsize=7, frameon=False, borderaxespad=0, handlelength=1.2)
        return
    lines = [*textwrap.wrap(task.colour_words(), _LINE), task.range_note(task.value_range(label))]
    axis.text(0, 1, "\n".join(filter(None, lines)), ha="left", va="top", fontsize=7, transform=axis.transAxes)


# `python -m ditask_jax.data show`: one example with all its labels, as stored, as evaluated and as augmented.


EXAMPLES = (
    "pascal --root PASCAL_MT --index 7 --out example.png",
    "scenes --index 3 --out example.png --draws 4",
    "vtab --task cifar100 --root vtab-1k --index 0 --out example.png",
)
CONFIG = "overrides"
_USUAL = {
    "pascal": ("semseg", "human_parts", "sal", "normals"),
    "nyud": ("semseg", "depth", "normals"),
    "cityscapes": ("semseg", "depth"),
}


def add_arguments(parser) -> None:
    """Adds the options of this command to a `cli.Parser`."""
    add_tree_options(parser, OPENERS, root_required=False)
    parser.add_option("--index", type=int, default=0, metavar="K", help="number of the example (default 0)")
    parser.add_path("--out", required=True, metavar="FILE", help="PNG file to write")
    parser.add_option("--split", default="train", metavar="NAME", help="train (default) or val")
    parser.add_option("--size", type=int, default=448, metavar="N", help="side of the network's input (default 448)")
    parser.add_option("--draws", type=int, default=3, metavar="N", help="augmented versions to draw (default 3)")
    parser.add_option("--seed", type=int, default=0, metavar="N", help="of the augmentation")
    parser.add_option("--task", metavar="NAME", help="vtab: which of its 19 tasks")
    add_folder_options(parser)


def run(args) -> int:
    """Reads the example, augments it and writes the image."""
    check_known("command line: NAME", args.name, OPENERS)
    for name, lowest in (("index", 0), ("size", 1), ("draws", 0), ("seed", 0)):
        if getattr(args, name) < lowest:
            raise ConfigError(f"command line: --{name}: got {getattr(args, name)}, expected {lowest} or more")
    said = take_fields(args)
    names = parse_tasks(args.tasks) or _usual_tasks(args, said)
    source = _open(args, names, said)
    if args.index >= len(source):
        raise ConfigError(f"command line: --index: got {args.index}, expected 0 to {len(source) - 1}")
    example = source[args.index]
    tasks = _tasks(args, names, example, source, said)
    title = f"{args.name}, {args.split} {args.index} of {len(source)}: {example.get('id', '?')}"
    rows = _rows(example, tasks, args)
    path = draw_example(folder(args.out), rows, tasks, title)
    print(f"wrote {path}")
    return cli.OK


def _usual_tasks(args, said) -> tuple[str, ...]:
    if args.name != "folder":
        from ditask_jax.tasks.task_registry import DATASETS

        if not (usual := _USUAL.get(args.name, DATASETS[args.name].tasks)):
            raise ConfigError(f"command line: NAME: the data set '{args.name}' has no tasks")
        return usual
    if args.root is None:
        raise ConfigError("command line: --root: missing; give the folder that holds train/images")
    if not (found := folder_tasks(args, said)):
        raise ConfigError(
            f"command line: --tasks: missing; none of {' '.join(READERS)} is in {args.root}/train, and "
            "task.NAME.kind declares no other"
        )
    return found


def _open(args, names: tuple[str, ...], said):
    options = {}
    if args.name in TREES:
        options = {"layout": args.layout, "depth_unit": args.depth_unit, "semseg_classes": args.semseg_classes}
        options["check"] = False  # one example is read, the others need not be there
    if args.name == "vtab":
        options = {"task": vtab_task(args.task).name}
    if args.name == "folder":
        options = folder_options(args) | {"check": False, "declared": declared_labels(names, said)}
    root = None if args.root is None else folder(args.root)
    return open_source(args.name, args.split, names, root, args.size, **options)


def _tasks(args, names: tuple[str, ...], example: dict, source, said):
    from ditask_jax.tasks import create_tasks

    counts = {}
    if args.name == "vtab":
        counts = {"classification": vtab_task(args.task).num_classes}
    elif args.name == "folder":
        for name in {"semseg", "human_parts"} & {name for name in names if "kind" not in said.get(name, {})}:
            known = example[name][example[name] != 255]
            counts[name] = max(int(known.max(initial=1)) + 1, 2)
    elif args.semseg_classes is not None:
        counts = {"semseg": args.semseg_classes}
    return create_tasks(names, args.name, counts, getattr(source, "depth_unit", None), said)


def _rows(example: dict, tasks, args) -> list[tuple[str, np.ndarray, dict]]:
    """(description, image, labels by task) of every row of the drawing."""
    height, width = example["image"].shape[:2]
    labels = {task.name: example[task.name] for task in tasks}
    rows = [(f"as stored\n{height}x{width}", example["image"], labels)]
    specs, size = [task.label_spec for task in tasks], (args.size, args.size)
    augmentation = PRESETS.get(args.name, Augmentation())  # a data set of a user's own has none
    evaluated = transform(example, specs, size, None, augmentation)
    rows.append((f"in evaluation\n{args.size}x{args.size}", evaluated["image"], evaluated["labels"]))
    for number in range(args.draws if augmentation.is_random else 0):
        draw = sample(augmentation, np.random.default_rng((args.seed, args.index, number)))
        done = transform(example, specs, size, draw, augmentation)
        rows.append((f"in training\n{_words(draw, augmentation)}", done["image"], done["labels"]))
    return rows


def _words(draw: Draw, augmentation: Augmentation) -> str:
    """What was drawn, for a person.

    >>> _words(Draw(True, -7.25, 1.1), Augmentation())
    'flipped, -7.2°, x1.10'
    """
    parts = ["flipped" if draw.flip else "not flipped"]
    if augmentation.rotation:
        parts.append(f"{draw.angle:+.1f}°")
    if augmentation.scale != (1.0, 1.0):
        parts.append(f"x{draw.scale:.2f}")
    return ", ".join(parts)
