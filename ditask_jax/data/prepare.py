"""Prepares a data set: its tree, read once, becomes array_record shards with a manifest of counts and hashes.

Everything is written to a hidden folder, which gets its name when the set is whole and verified: a killed preparation
leaves that folder, the next one removes it, and nothing else is ever taken for a set.
"""

import contextlib
import dataclasses
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ditask_jax.data import prepared
from ditask_jax.data.trees import SPLITS, missing_text, open_tree
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.files import atomic_write_json


@dataclasses.dataclass(frozen=True)
class Wish:
    """What to prepare.

    Attributes:
      name: data set.
      tasks: labels to keep; None: the usual ones.
      layout, depth_unit, semseg_classes: as of `open_tree`.
      skip_bad: leave out examples whose files are missing or damaged.
    """

    name: str
    tasks: tuple[str, ...] | None = None
    layout: str | None = None
    depth_unit: str | None = None
    semseg_classes: int | None = None
    skip_bad: bool = False


def prepare(
    wish: Wish,
    root: Path,
    out: Path,
    replace: bool = False,
    say: Callable[[str], None] = print,
    on_example: Callable[[str, str, int], None] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Prepares a data set below `out`, or finds that this has been done.

    Args:
      wish: what to prepare.
      root: the data set's tree.
      out: folder that gets `<name>_mt/[package/]VERSION/`.
      replace: prepare anew even where a set of other contents stands; a damaged one is always replaced.
      say: told what happens, a line at a time.
      on_example: called with split, id and the number of examples of the split after each of them.

    Returns:
      The folder of the set and its manifest.

    Raises:
      ConfigError: a choice that the data set does not have, or a set of other contents stands there.
      DataError: a file of the tree is missing or wrong; nothing new is then left behind.
    """
    tree = open_tree(wish.name, root, wish.layout, wish.depth_unit, wish.semseg_classes)
    tasks = tree.usual_tasks if wish.tasks is None else wish.tasks
    tree.check_tasks(tasks)
    for note in tree.notes:
        say(note)
    counts = {split: len(tree.ids(split)) for split in SPLITS}
    for split in SPLITS:
        missing = tree.missing(split, tasks)
        if missing and not wish.skip_bad:
            raise DataError(missing_text(wish.name, split, missing))

    with _Lock(out, wish.name):
        working = prepared.working_folder(out, wish.name)
        if working.exists():
            say(f"removing what an interrupted preparation left in {working}")
            shutil.rmtree(working)
        with _builder(wish, tree, tasks, working, counts, on_example) as builder:
            built = Path(builder.data_dir)
            target = out / built.relative_to(working)
            standing = _standing(target, _description(tree, tasks), replace, say)
            if standing is None:
                say("preparing " + ", ".join(f"{count} examples of {split}" for split, count in counts.items()))
                _generate(builder, tree.root)
                _describe(builder, tree, tasks, counts, built)
                standing = prepared.verify(built)
                _put_in_place(built, target)
    return target, standing


@contextlib.contextmanager
def _builder(wish: Wish, tree, tasks, working: Path, counts, on_example) -> Iterator[Any]:
    """The builder; its folder is removed in the end, whatever goes wrong."""
    import tensorflow_datasets as tfds

    from ditask_jax.data.builders.multitask import BUILDERS

    tfds.disable_progress_bar()
    kind = BUILDERS[wish.name]
    report = None if on_example is None else lambda split, name: on_example(split, name, counts[split])
    # The unit that was found in the tree, so that builder and tree agree.
    unit = tree.file_unit if wish.name == "nyud" else tree.depth_unit if wish.name == "cityscapes" else None
    try:
        yield kind(
            data_dir=working,
            config=tree.layout if kind.BUILDER_CONFIGS else None,
            file_format="array_record",
            tasks=tasks,
            depth_unit=unit,
            semseg_classes=tree.class_counts.get("semseg") if tree.layout == "mtan" else None,
            skip_bad=wish.skip_bad,
            on_example=report,
        )
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _generate(builder, root: Path) -> None:
    import tensorflow_datasets as tfds

    settings = tfds.download.DownloadConfig(
        manual_dir=root, try_download_gcs=False, compute_stats=tfds.download.ComputeStatsMode.SKIP
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it announces downloads, and there are none
            builder.download_and_prepare(download_config=settings)
    except Exception as error:
        if builder.failure is not None:
            raise builder.failure from error
        raise


def _description(tree, tasks) -> dict[str, Any]:
    """What tells one set from another of the same name."""
    return {
        "format": prepared.FORMAT,
        "data_set": tree.name,
        "layout": tree.layout,
        "tasks": list(tasks),
        "forms": {task: tree.forms[task] for task in tasks},
        "class_counts": {task: count for task, count in tree.class_counts.items() if task in tasks},
        "depth_unit": tree.depth_unit,
        "resizes_labels": tree.resizes_labels,
    }


def _describe(builder, tree, tasks, counts, folder: Path) -> None:
    """Writes the manifest of a set that is otherwise complete, once its counts are right."""
    splits = {}
    for split in SPLITS:
        found, skipped = builder.info.splits[split].num_examples, builder.skipped[split]
        expected = counts[split] - len(skipped)
        if found != expected:
            raise DataError(f"data: {folder} holds {found} examples of {split}, expected {expected}")
        splits[split] = {"examples": found, "published": tree.expected[split], "skipped": skipped}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    content = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": prepared.hash_file(folder / name)} for name in names
    }
    manifest = {**_description(tree, tasks), "notes": tree.notes, "splits": splits, "files": content}
    atomic_write_json(folder / prepared.MANIFEST, manifest)


def _standing(target: Path, description: dict, replace: bool, say: Callable[[str], None]) -> dict | None:
    """The manifest of the set if it is there already, whole and as wished."""
    if not target.exists():
        return None
    if replace:
        say(f"preparing {target} anew")
        return None
    if not (target / prepared.MANIFEST).is_file():
        raise DataError(f"data: {target} was not prepared by this program; use another --out, or --replace")
    try:
        say(f"verifying {target}")
        manifest = prepared.verify(target)
    except DataError as error:
        say(f"{error}")
        say("preparing it anew")
        return None
    different = [key for key, value in description.items() if manifest[key] != value]
    if not different:
        say("prepared already: every hash and count is right")
        return manifest
    key = different[0]
    raise ConfigError(
        f"data: {target} was prepared with {key} {_shown(manifest[key])}, now {_shown(description[key])}; "
        "use another --out, or --replace to prepare it anew"
    )


def _shown(value) -> str:
    return "+".join(value) if isinstance(value, list) else str(value)


def _put_in_place(built: Path, target: Path) -> None:
    """Gives a finished set its name; an old one of that name goes when the new one is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.rename(old)
    built.rename(target)
    if old.exists():
        shutil.rmtree(old)


class _Lock:
    """Keeps two preparations out of one folder; the system releases it when a process dies."""

    def __init__(self, out: Path, name: str) -> None:
        self._path = out / f".{name}_mt.lock"
        self._is_new = not out.exists()

    def __enter__(self) -> None:
        import fcntl

        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(f"data: another preparation is working in {self._path.parent}; wait for it") from error
        except OSError:
            pass  # some network file systems have no locks: whoever starts two preparations there must know

    def __exit__(self, *_) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()
        if self._is_new and not any(self._path.parent.iterdir()):
            self._path.parent.rmdir()
