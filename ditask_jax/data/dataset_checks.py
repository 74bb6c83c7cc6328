"""Examines a data set before training: what is missing, what is broken, what is in it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ditask_jax.data.benchmarks import SPLITS, Tree, open_tree
from ditask_jax.data.benchmarks.tree import finish
from ditask_jax.data.declared_labels import DeclaredLabel
from ditask_jax.data.prepared.prepared_source import PreparedSource, find_prepared, read_manifest, verify
from ditask_jax.data.statistics import LabelStatistics, gather
from ditask_jax.data.vtab import EXAMPLES, LABEL, open_vtab, vtab_task
from ditask_jax.errors import DataError
from ditask_jax.labels import IGNORE

OnExample = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong with a split.

    Attributes:
      split: where.
      what: "image" or the label that cannot be used for it.
      found: the file that is missing, or one line that names a file and what is wrong with it.
      archive: of a file that is missing, what it comes with.
      is_whole_split: nothing of the split can be read, so that skipping bad examples would not help.
    """

    split: str
    what: str
    found: Path | str
    archive: str | None = None
    is_whole_split: bool = False


@dataclasses.dataclass
class Report:
    """What was found.

    Attributes:
      title: what was examined.
      needed: labels that training needs.
      optional: labels that were looked at too.
      notes: what was detected.
      counts: examples per split, and how many were published (None: unknown).
      problems: what is wrong, in the order it was found.
      statistics: by "image" or task: something with a `text()`.
      read: number of examples that were decoded.
    """

    title: str
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    notes: list[str] = dataclasses.field(default_factory=list)
    counts: dict[str, tuple[int, int | None]] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    statistics: dict = dataclasses.field(default_factory=dict)
    read: int = 0

    def fatal(self) -> list[Problem]:
        """Problems that training on the needed labels would meet."""
        return [problem for problem in self.problems if problem.what in ("image", *self.needed)]


def examine_tree(tree: Tree, tasks: Sequence[str] | None, samples: int | None, on_example: OnExample) -> Report:
    """Examines the original files of a data set.

    Args:
      tree: the files.
      tasks: labels that are needed; None: the usual ones, and the others are looked at too.
      samples: examples to decode per split, spread evenly; None: all of them.
      on_example: called with split, number of examples decoded and to decode.
    """
    needed = tree.usual_tasks if tasks is None else tuple(tasks)
    tree.check_tasks(needed)
    optional = () if tasks is not None else tuple(task for task in tree.tasks if task not in needed)
    everything = (*needed, *optional)
    report = Report(f"{tree.name} ({tree.layout}) in {tree.root}", needed, optional)
    report.statistics = gather(tree.class_counts, everything, tree.depth_unit)
    for split in SPLITS:
        try:
            names = tree.ids(split)
        except DataError as error:
            report.problems.append(Problem(split, "image", _line(error), is_whole_split=True))
            continue
        report.counts[split] = (len(names), tree.expected[split])
        absent = tree.missing(split, everything)
        report.problems += [Problem(split, entry.what, *entry.file) for entry in absent]
        gone = {(entry.name, entry.what) for entry in absent}
        chosen = _spread(len(names), samples)
        for done, number in enumerate(chosen, 1):
            _examine_example(tree, split, names[number], everything, gone, report)
            on_example(split, done, len(chosen))
    report.notes = list(tree.notes)
    if tree.layout != "mtan" and len(report.counts) == len(SPLITS):  # which numbers each split from 0
        both = sorted(set(tree.ids("train")) & set(tree.ids("val")))
        if both:
            report.notes.append(f"train and val share {len(both)} of their examples, for example '{both[0]}'")
    return report


def _examine_example(tree: Tree, split: str, name: str, tasks, gone, report: Report) -> None:
    if (name, "image") in gone:
        return
    readable = [task for task in tasks if (name, task) not in gone]
    try:
        examples = [finish(tree.record(split, name, readable), tree.forms, tree.resizes_labels)]
    except DataError:
        examples = _label_by_label(tree, split, name, readable, report)
    for example in examples:
        _add(report, example)
    report.read += bool(examples)


def _label_by_label(tree: Tree, split: str, name: str, tasks, report: Report) -> list[dict]:
    """The labels that can be read, each on its own, so that one broken file does not hide another."""
    try:
        image = tree.record(split, name, ()).image
    except DataError as error:
        report.problems.append(Problem(split, "image", _line(error)))
        return []
    found: dict = {"image": image}
    for task in tasks:
        try:
            found[task] = finish(tree.record(split, name, (task,)), tree.forms, tree.resizes_labels)[task]
        except DataError as error:
            report.problems.append(Problem(split, task, _line(error)))
    return [found]


def examine_sources(
    title: str,
    sources: Mapping[str, Callable[[], Sequence]],
    tasks: Sequence[str],
    class_counts: Mapping[str, int],
    samples: int | None,
    on_example: OnExample,
    depth_unit: str = "metres",
    declared: Mapping[str, DeclaredLabel] | None = None,
) -> Report:
    """Examines a data set through its sources.

    Args:
      title: what it is.
      sources: by split, what opens it.
      tasks: labels that the sources give.
      class_counts: number of classes of class maps.
      samples, on_example: see `examine_tree`.
      depth_unit: of depth labels.
      declared: how labels are read of those tasks that a configuration declares.
    """
    report = Report(title, tuple(tasks), statistics=gather(class_counts, tasks, depth_unit))
    for task, form in (declared or {}).items():
        report.statistics[task] = LabelStatistics(form.num_classes, zero_is_missing=form.kind != "regression")
    for split, open_split in sources.items():
        try:
            source = open_split()
        except DataError as error:
            report.problems.append(Problem(split, "image", _line(error), is_whole_split=True))
            continue
        report.counts[split] = (len(source), None)
        chosen = _spread(len(source), samples)
        for done, number in enumerate(chosen, 1):
            try:
                _add(report, source[number])
                report.read += 1
            except DataError as error:
                report.problems.append(Problem(split, "image", _line(error)))
            on_example(split, done, len(chosen))
    for task, form in (declared or {}).items():
        absent = [form.class_text(k) for k in report.statistics[task].absent() if form.class_names]
        if absent and report.read:
            report.notes.append(f"{task}: in none of the files that were read: {', '.join(absent)}")
    return report


def doubt_labels(
    report: Report,
    mask_ignore: bool | None,
    depth_unit: str | None,
    declared: Mapping[str, DeclaredLabel] | None = None,
) -> None:
    """Adds as problems the labels of one's own files that can be read and still teach nothing, or the wrong thing.

    Args:
      report: of the examples that were read.
      mask_ignore, depth_unit, declared: as `FolderSource` was given them; what is declared leaves nothing to guess.
    """
    for task in report.needed:
        found = report.statistics[task]
        text = ""
        if found.is_ignored_everywhere():
            text = "no pixel of those read has a label"
        elif task in (declared or {}):
            continue
        elif task in ("sal", "edge") and mask_ignore and found.is_one_class_and_ignored():
            text = (
                f"the masks hold one value and {IGNORE} alone, and {IGNORE} is ignored: if it means yes, leave "
                "mask_ignore out (--config.data.mask_ignore=none; doctor, show: no --mask-ignore)"
            )
        elif task in ("semseg", "human_parts") and not mask_ignore and found.is_one_class_and_ignored():
            option = f"{task}_classes"
            text = (
                f"the maps hold one class and {IGNORE} alone, and {IGNORE} is ignored: if it is the second class, set "
                f"--config.data.mask_ignore=false --config.data.{option}=2 (doctor, show: --mask-ignore false "
                f"--{option.replace('_', '-')} 2); if it is not, --config.data.mask_ignore=true says so"
            )
        elif task == "depth" and depth_unit is None and found.looks_like_millimetres():
            text = (
                "the depths are whole numbers, some above 100, as of millimetres: set "
                "--config.data.depth_unit=millimetres or metres (doctor, show: --depth-unit)"
            )
        if text:
            report.problems.append(Problem("", task, text, is_whole_split=True))


def examine_vtab(root: Path, task: str, samples: int | None, on_example: OnExample) -> Report:
    """Examines one task of VTAB-1k: its lists and every file they name, or its prepared set, and samples."""
    splits = {split: (lambda split=split: open_vtab(root, split, task)) for split in SPLITS}
    classes = {LABEL: vtab_task(task).num_classes}
    report = examine_sources(f"vtab {task} in {root}", splits, (LABEL,), classes, samples, on_example)
    if "train" in report.counts:
        report.counts["train"] = (report.counts["train"][0], EXAMPLES)
    return report


def examine_prepared(folder: Path, tasks: Sequence[str] | None, samples: int | None, on_example: OnExample) -> Report:
    """Examines a prepared set: hashes and counts of its files, and samples."""
    manifest = read_manifest(folder)
    needed = tuple(manifest["tasks"] if tasks is None else tasks)
    sources = {split: (lambda split=split: PreparedSource(folder, split, needed)) for split in manifest["splits"]}
    title = f"{manifest['data_set']} ({manifest['layout']}), prepared in {folder}"
    try:
        verify(folder, _megabytes(manifest, on_example))
    except DataError as error:
        # Damaged shards may crash or hang a reader, so nothing is decoded.
        report = Report(title, needed, problems=[Problem("", "image", _line(error), is_whole_split=True)])
        report.statistics = gather(manifest["class_counts"], needed, manifest["depth_unit"])
        return report
    report = examine_sources(
        title, sources, needed, manifest["class_counts"], samples, on_example, manifest["depth_unit"]
    )
    for split, (count, _) in list(report.counts.items()):
        report.counts[split] = (count, manifest["splits"][split]["published"])
        skipped = manifest["splits"][split]["skipped"]
        if skipped:
            report.notes.append(f"{len(skipped)} examples of {split} were left out when it was prepared")
    report.notes += manifest.get("notes", [])
    report.notes.append("every hash and count is as it was prepared")
    return report


def examine_multitask(
    name: str,
    root: Path,
    tasks: Sequence[str] | None,
    samples: int | None,
    on_example: OnExample,
    layout: str | None = None,
    depth_unit: str | None = None,
    semseg_classes: int | None = None,
) -> Report:
    """Examines a benchmark: the prepared set in a folder or, without one, the tree."""
    folder = find_prepared(root, name)
    if folder is not None:
        return examine_prepared(folder, tasks, samples, on_example)
    return examine_tree(open_tree(name, root, layout, depth_unit, semseg_classes), tasks, samples, on_example)


def _line(error: DataError) -> str:
    return str(error).removeprefix("data: ")


def _megabytes(manifest: Mapping, on_example: OnExample) -> Callable[[int], None]:
    """Reports hashed bytes as if they were examples, a megabyte each."""
    total, done = sum(entry["bytes"] for entry in manifest["files"].values()), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_example("MB of shards", done >> 20, max(total >> 20, 1))

    return on_bytes


def _add(report: Report, example: Mapping) -> None:
    for what, statistics in report.statistics.items():
        if what in example:
            statistics.add(example[what])


def _spread(count: int, samples: int | None) -> list[int]:
    """Numbers of examples, spread evenly from the first to the last.

    >>> _spread(9, 3), _spread(2, 5), _spread(3, None)
    ([0, 4, 8], [0, 1], [0, 1, 2])
    """
    if samples is None or samples >= count:
        return list(range(count))
    return np.unique(np.linspace(0, count - 1, samples).round().astype(int)).tolist()
