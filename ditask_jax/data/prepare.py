"""Prepares a data set: its tree, read once, becomes array_record shards with a manifest of counts and hashes.

Everything is written to a hidden folder, which gets its name when the set is whole and verified: a killed preparation
leaves that folder, the next one goes on with the shards finished in it (`staging`), and nothing else is ever taken for
a set.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ditask_jax
from ditask_jax.data import prepared
from ditask_jax.data.staging import FORMAT, Staging, digest, hash_text
from ditask_jax.data.trees import SPLITS, Tree, missing_text, open_tree
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.files import atomic_write_json, locked, user_path

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
        working = prepared.working_folder(out, wish.name)
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
    from ditask_jax.data.builders.multitask import BUILDERS

    kind = BUILDERS[tree.name]
    unit = None if tree.name == "pascal" else _file_unit(tree)
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
        say(f"going on with {stage.num_kept} shards that an interrupted preparation finished")
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
        name: {"bytes": (stage.folder / name).stat().st_size, "sha256": prepared.hash_file(stage.folder / name)}
        for name in names
    }
    manifest = {**description, "notes": tree.notes, "splits": splits, "files": content}
    atomic_write_json(stage.folder / prepared.MANIFEST, manifest)
    return stage.folder, prepared.verify(stage.folder)


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
    from ditask_jax.data.builders.multitask import read_features, serialize

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
        "format": prepared.FORMAT,
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
