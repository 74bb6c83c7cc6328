"""Preparing a data set: staged beside its place, checked, moved there whole; a run that was interrupted goes on."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ditask_jax
from ditask_jax.data.benchmarks import SPLITS, Tree, missing_text, open_tree
from ditask_jax.data.prepared import prepared_source
from ditask_jax.data.prepared.prepared_source import hash_file
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.files import atomic_write_json, locked, user_path

# Where a set grows, shard by shard: what a killed preparation has finished is kept, and nothing else of it.
#
#     WORKING/progress.json     what the set is made of, and per finished shard its size, hash and counts
#     WORKING/set/              the shards; last the descriptions too, and then the folder gets its final name
#
# A shard counts as finished once it stands in `progress.json`, which is written after the shard itself. The next
# preparation keeps it if it still has its hash and the files it was made from have not changed since.


FORMAT = "ditask_jax preparation, 1"
Say = Callable[[str], None]


class Staging:
    """The shards of a set that is being prepared.

    Args:
      working: folder of this preparation; made where it is missing.
      wish: plain data that says what is made, from what and by which program; shards of another wish are removed.
      say: told what is kept and what is not, a line at a time.
    """

    def __init__(self, working: Path, wish: dict[str, Any], say: Say) -> None:
        self.folder = working / "set"
        self._journal = working / "progress.json"
        self._wish = wish
        self._say = say
        self._shards = self._left_behind(working)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name not in self._shards:
                path.unlink()
        self._write_journal()

    @property
    def num_kept(self) -> int:
        """Shards that stand in the journal; `keep` has yet to verify them."""
        return len(self._shards)

    def keep(self, name: str, sources: str) -> dict[str, Any] | None:
        """The journal's entry of a shard if it is whole and its `sources` are as they were, else None."""
        entry = self._shards.get(name)
        if entry is None:
            return None
        path = self.folder / name
        if entry["sources"] != sources:
            reason = "the files it was made from have changed"
        elif not path.is_file() or path.stat().st_size != entry["bytes"] or hash_file(path) != entry["sha256"]:
            reason = "it is damaged"
        else:
            return entry
        self._say(f"preparing shard {name} anew: {reason}")
        del self._shards[name]
        self._write_journal()
        return None

    def write(self, name: str, sources: str, records: Iterable[bytes], skipped: dict[str, str]) -> dict[str, Any]:
        """Writes a shard and its entry in the journal, which is returned.

        Args:
          name: of the shard's file.
          sources: see `digest`.
          records: serialised examples.
          skipped: filled by `records` on the way: id -> why it was left out.
        """
        from array_record.python.array_record_module import ArrayRecordWriter

        path, count, payload = self.folder / name, 0, 0
        writer = ArrayRecordWriter(str(path), "group_size:1")
        try:
            for record in records:
                writer.write(record)
                count, payload = count + 1, payload + len(record)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # what went wrong first is what matters
                writer.close()
            raise
        try:
            writer.close()
        except RuntimeError as error:  # a full disk, for example, which writing to the writer's buffer does not meet
            raise DataError(f"data: {path} cannot be written: {str(error).splitlines()[0]}") from error
        with path.open("rb") as file:
            os.fsync(file.fileno())
        entry = {
            "bytes": path.stat().st_size,
            "sha256": hash_file(path),
            "examples": count,
            "payload": payload,
            "skipped": dict(skipped),
            "sources": sources,
        }
        self._shards[name] = entry
        self._write_journal()
        return entry

    def _left_behind(self, working: Path) -> dict[str, dict]:
        """Entries of the finished shards of a preparation of the same wish; the folder of any other is removed."""
        if not working.exists():
            return {}
        try:
            journal = json.loads(self._journal.read_text(encoding="utf-8"))
            found, shards = dict(journal["wish"]), dict(journal["shards"])
        except (OSError, ValueError, KeyError, TypeError):
            reason = "it does not say what it has finished"
        else:
            different = [key for key in {**self._wish, **found} if found.get(key) != self._wish.get(key)]
            if not different:
                return shards
            reason = f"it was made with other {different[0].replace('_', ' ')}"
        self._say(f"removing what an interrupted preparation left in {working}: {reason}")
        shutil.rmtree(working)
        return {}

    def _write_journal(self) -> None:
        atomic_write_json(self._journal, {"wish": self._wish, "shards": self._shards})


def digest(root: Path, paths: Sequence[Path]) -> str:
    """A hash of names (below `root`), sizes and times of change of files, missing ones included."""
    lines = []
    for path in paths:
        try:
            found = path.stat()
            lines.append(f"{os.path.relpath(path, root)} {found.st_size} {found.st_mtime_ns}")
        except (FileNotFoundError, NotADirectoryError):
            lines.append(f"{os.path.relpath(path, root)} missing")
        except OSError as error:
            raise DataError(f"data: {path} cannot be read: {error.strerror or error}") from error
    return hash_text("\n".join(lines))


def hash_text(text: str) -> str:
    """SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


# Preparing a set: its tree, read once, becomes array_record shards with a manifest of counts and hashes.
#
# Everything is written to a hidden folder, which gets its name when the set is whole and verified: a killed preparation
# leaves that folder, the next one resumes with the shards finished in it (`Staging`), and nothing else is ever taken
# for a set.


OnExample = Callable[[str, str, int], None]


@dataclasses.dataclass(frozen=True)
class Wish:
    """What to prepare.

    Attributes:
      name: data set.
      tasks: labels to keep; None: the usual ones.
      layout, depth_unit, semseg_classes: as of `open_tree`.
      skip_bad: leave out examples whose files are missing or damaged.
      examples_per_shard: what a kill costs at most, and how many files there are.
    """

    name: str
    tasks: tuple[str, ...] | None = None
    layout: str | None = None
    depth_unit: str | None = None
    semseg_classes: int | None = None
    skip_bad: bool = False
    examples_per_shard: int = 128


def prepare(
    wish: Wish,
    root: Path,
    out: Path,
    replace: bool = False,
    say: Callable[[str], None] = print,
    on_example: OnExample | None = None,
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
    root, out = user_path(root, "data: root"), user_path(out, "data: out")
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

    if out.exists() and not out.is_dir():
        raise ConfigError(f"data: {out} is a file; a prepared set needs a folder")
    lock = out / f".{wish.name}_mt.lock"
    with locked(lock, "data", "preparation", "wait for it, or use another --out", DataError):
        working = prepared_source.working_folder(out, wish.name)
        builder = _builder(tree, tasks, working)
        target = out / Path(builder.data_dir).relative_to(working)
        standing = _standing(target, _description(tree, tasks), replace, say)
        if standing is None:
            say("preparing " + ", ".join(f"{count} examples of {split}" for split, count in counts.items()))
            try:
                built, standing = _build(wish, tree, tasks, builder, working, say, on_example)
            except Exception:  # not where a user stops it, for that is to be gone on with
                shutil.rmtree(working, ignore_errors=True)
                raise
            _put_in_place(built, target)
        if working.exists():
            shutil.rmtree(working)
    return target, standing


def _builder(tree: Tree, tasks: Sequence[str], working: Path):
    """The tensorflow-datasets builder that knows the features of the set and its name."""
    from ditask_jax.data.prepared.tfds_builder import BUILDERS

    kind = BUILDERS[tree.name]
    unit = _file_unit(tree) if "depth" in tree.forms else None
    return kind(
        data_dir=working,
        config=tree.layout if kind.BUILDER_CONFIGS else None,
        file_format="array_record",
        tasks=tasks,
        depth_unit=unit,
        semseg_classes=tree.class_counts.get("semseg") if tree.layout == "mtan" else None,
    )


def _build(
    wish: Wish, tree: Tree, tasks: Sequence[str], builder, working: Path, say, on_example: OnExample | None
) -> tuple[Path, dict]:
    """Writes the shards that are not there yet, and what describes them; the folder and its manifest."""
    import tensorflow_datasets as tfds

    description = _description(tree, tasks)
    made_of = {
        "program": f"{FORMAT}, {ditask_jax.__version__}",
        **description,
        "examples": hash_text("\n".join(f"{split} {name}" for split in SPLITS for name in tree.ids(split))),
        "skip_bad": wish.skip_bad,
        "examples_per_shard": wish.examples_per_shard,
    }
    stage = Staging(working, made_of, say)
    if stage.num_kept:
        say(f"resuming with {stage.num_kept} shards that an interrupted preparation finished")
    splits, infos = {}, []
    for split in SPLITS:
        shards = [_shard(wish, tree, tasks, builder, stage, *part, on_example) for part in _parts(wish, tree, split)]
        skipped = {name: reason for entry in shards for name, reason in entry["skipped"].items()}
        lengths = [entry["examples"] for entry in shards]
        count = len(tree.ids(split))
        if not sum(lengths):
            last = list(skipped.values())[-1]
            raise DataError(f"{tree.name}: not one of the {count} examples of {split} can be read; the last: {last}")
        splits[split] = {"examples": sum(lengths), "published": tree.expected[split], "skipped": skipped}
        infos.append(tfds.core.SplitInfo(split, lengths, sum(entry["payload"] for entry in shards)))
    builder.info.set_splits(tfds.core.SplitDict(infos))
    builder.info.write_to_directory(stage.folder)
    names = sorted(path.name for path in stage.folder.iterdir())
    content = {
        name: {"bytes": (stage.folder / name).stat().st_size, "sha256": prepared_source.hash_file(stage.folder / name)}
        for name in names
    }
    manifest = {**description, "notes": tree.notes, "splits": splits, "files": content}
    atomic_write_json(stage.folder / prepared_source.MANIFEST, manifest)
    return stage.folder, prepared_source.verify(stage.folder)


def _parts(wish: Wish, tree: Tree, split: str) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Of each shard its file name, split and ids."""
    names = tree.ids(split)
    total = -(-len(names) // wish.examples_per_shard)
    for number in range(total):
        chosen = names[number * wish.examples_per_shard : (number + 1) * wish.examples_per_shard]
        yield f"{tree.name}_mt-{split}.array_record-{number:05d}-of-{total:05d}", split, chosen


def _shard(
    wish: Wish, tree: Tree, tasks, builder, stage: Staging, file: str, split: str, names, on_example
) -> dict[str, Any]:
    """The journal's entry of one shard, which is written unless it is there."""
    from ditask_jax.data.prepared.tfds_builder import read_features, serialize

    count = len(tree.ids(split))
    whats = ("image", *tasks)
    paths = [entry.path for name in names for what in whats for entry in tree.files(split, name, what)]
    # Before they are read, so that a file which changes on the way is noticed by the next preparation.
    sources = digest(tree.root, paths)
    entry = stage.keep(file, sources)
    if entry is not None:
        for name in names if on_example is not None else ():
            on_example(split, name, count)
        return entry
    skipped: dict[str, str] = {}

    def records() -> Iterator[bytes]:
        for name in names:
            try:
                found = read_features(tree, split, name, tasks)
            except DataError as error:
                if not wish.skip_bad:
                    raise
                skipped[name] = str(error)
            else:
                yield serialize(builder.info.features, found)
            if on_example is not None:
                on_example(split, name, count)

    return stage.write(file, sources, records(), skipped)


def _description(tree, tasks) -> dict[str, Any]:
    """What tells one set from another of the same name."""
    return {
        "format": prepared_source.FORMAT,
        "data_set": tree.name,
        "layout": tree.layout,
        "tasks": list(tasks),
        "forms": {task: tree.forms[task] for task in tasks},
        "class_counts": {task: count for task, count in tree.class_counts.items() if task in tasks},
        "depth_unit": tree.depth_unit,
        "file_unit": _file_unit(tree) if "depth" in tasks else None,
        "resizes_labels": tree.resizes_labels,
    }


def _file_unit(tree) -> str:
    """The unit that was asked for, or found in the tree: that of the files of NYUDv2, of the labels elsewhere."""
    return tree.file_unit if tree.name == "nyud" else tree.depth_unit


def _standing(target: Path, description: dict, replace: bool, say: Callable[[str], None]) -> dict | None:
    """The manifest of the set if it is there already, whole and as wished."""
    if not target.exists():
        return None
    if replace:
        say(f"preparing {target} anew")
        return None
    if not (target / prepared_source.MANIFEST).is_file():
        raise DataError(f"data: {target} was not prepared by this program; use another --out, or --replace")
    try:
        say(f"verifying {target}")
        manifest = prepared_source.verify(target)
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
