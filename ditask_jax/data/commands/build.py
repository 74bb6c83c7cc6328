"""`build`, and what the commands of data share."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ditask_jax import cli
from ditask_jax.data.benchmarks import TREES
from ditask_jax.errors import ConfigError, check_known
from ditask_jax.files import user_path

# A progress bar on the error stream, on a terminal only.


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yields `update(part, done, total)`: a part's bar appears when it is first named.

    >>> with progress_bar("reading") as update:
    ...     update("train", 1, 2)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, int] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def update(part: str, done: int, total: int) -> None:
            if part not in bars:
                bars[part] = progress.add_task(f"{label} {part}", total=total)
            progress.update(bars[part], completed=done, total=total)

        yield update


# Options that the commands on data sets share.


def add_tree_options(parser, names, root_required: bool = True) -> None:
    """`NAME --root DIR`, and what tells one package of a data set from another."""
    parser.add_option("name", metavar="NAME", help=f"data set: {' '.join(names)}")
    parser.add_path("--root", required=root_required, metavar="DIR", help="folder of the data set")
    parser.add_option("--tasks", metavar="A+B", help="labels, joined by + (default: the usual ones)")
    parser.add_option(
        "--layout", metavar="NAME", help="package: astmt, vandenhende, atrc, official, mtan; camvid, bsds: val, test"
    )
    units = "nyud, folder: metres, millimetres; cityscapes: pixels, metres"
    parser.add_option("--depth-unit", metavar="UNIT", help=units)
    parser.add_option("--semseg-classes", type=int, metavar="N", help="classes of semseg (cityscapes mtan: 7 or 19)")


def add_folder_options(parser) -> None:
    """What a folder of one's own may need said besides; in a configuration, the fields of `data` of the same names."""
    parser.add_option("--human-parts-classes", type=int, metavar="N", help="folder: classes of human_parts")
    parser.add_option("--val-fraction", type=float, metavar="F", help="folder: share of train/ for validation")
    ignores = "folder: true: 255 means ignore in masks too; false: it means yes in class maps of two classes too"
    parser.add_option("--mask-ignore", type=_yes_or_no, metavar="BOOL", help=ignores)
    below = "folder: true: read images in folders below images/; false: pass over them"
    parser.add_option("--subfolders", type=_yes_or_no, metavar="BOOL", help=below)


_FOLDER_FIELDS = ("semseg_classes", "human_parts_classes", "val_fraction", "mask_ignore", "depth_unit", "subfolders")


def take_fields(args) -> dict[str, dict[str, Any]]:
    """Takes `--config.FIELD=VALUE` of tasks and data, as a training is given them, for a folder of one's own.

    Fields of `data` stand for the options of the same names, `tasks` for `--tasks`, unless these are given too.

    Returns:
      What is said of tasks, by task.

    Raises:
      ConfigError: another data set, a field that says nothing about data, or one that cannot be used.
    """
    if not args.overrides:
        return {}
    pairs = [tuple(text.split("=", 1)) for text in args.overrides]
    wrong = [name for name, _ in pairs if name.partition(".")[0] not in ("tasks", "task", "data")]
    if wrong or args.name != "folder":
        what = "of a configuration it takes tasks, task and data" if wrong else "only 'folder' takes fields here"
        raise ConfigError(f"command line: --config.{(wrong or [pairs[0][0]])[0]}: {what}; preflight checks all of one")
    # Here: this brings JAX, which looking at files does without.
    from ditask_jax.config_fields import base_config, set_fields
    from ditask_jax.config_tasks import check_section, said

    config = base_config()
    set_fields(config, pairs)
    check_section(config)
    given = {name for name, _ in pairs}
    for name in _FOLDER_FIELDS:
        if getattr(args, name) is None and f"data.{name}" in given:
            setattr(args, name, config.data[name])
    if args.tasks is None and "tasks" in given:
        args.tasks = config.tasks
    return said(config.task)


def folder_options(args) -> dict:
    """The keyword arguments of `FolderSource` that a command line gives."""
    asked = {"semseg": args.semseg_classes, "human_parts": args.human_parts_classes}
    counts = {task: count for task, count in asked.items() if count is not None}
    return {"num_classes": counts} | {name: getattr(args, name) for name in _FOLDER_FIELDS[2:]}


def folder_tasks(args, said: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The tasks that are asked for: of `--tasks`, else all that are declared or have a folder of their own."""
    from ditask_jax.data.folder import READERS

    asked = parse_tasks(args.tasks)
    train = folder(args.root) / "train"
    found = [task for task in READERS if "kind" not in said.get(task, {}) and (train / task).is_dir()]
    return asked or (*found, *(name for name, values in said.items() if "kind" in values))


def declared_labels(names, said: Mapping[str, Mapping[str, Any]]) -> dict:
    """How the files of declared tasks are read, by task."""
    own = [name for name in names if "kind" in said.get(name, {})]
    if not own:
        return {}
    from ditask_jax.training.experiment import declared_labels

    return declared_labels(own, said)


def _yes_or_no(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"got '{text}', expected true or false")
    return known[text.lower()]


def parse_tasks(text: str | None) -> tuple[str, ...] | None:
    """Task names of `--tasks`; None where it is not given.

    >>> parse_tasks("semseg+depth")
    ('semseg', 'depth')
    """
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split("+"))
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(f"command line: --tasks: got '{text}', expected different names joined by +")
    return names


def folder(text: str) -> Path:
    """The path of an option; a leading ~ is the home folder."""
    return user_path(text)


# `python -m ditask_jax.data build`: prepares a data set once.


EXAMPLES = (
    "pascal --root PASCAL_MT --out prepared",
    "nyud --root NYUD_MT --out prepared --tasks semseg+depth+normals",
    "cityscapes --root cityscapes --out prepared --depth-unit metres",
    "ccp --root clothing-co-parsing --out prepared",
    "vtab --task cifar100 --out prepared",
)
NAMES = (*TREES, "vtab")


def add_arguments(parser) -> None:
    """Adds the options of this command to a `cli.Parser`."""
    add_tree_options(parser, NAMES, root_required=False)
    parser.add_path("--out", required=True, metavar="DIR", help="folder for the prepared set: data.root of training")
    parser.add_option("--task", metavar="NAME", help="vtab: which of its 19 tasks")
    parser.add_option("--skip-bad", action="store_true", help="leave out examples with missing or damaged files")
    parser.add_option("--replace", action="store_true", help="prepare anew where a set of other contents stands")


def run(args) -> int:
    """Prepares the set, or verifies the one that is there."""
    check_known("command line: NAME", args.name, NAMES)
    if args.name == "vtab":
        return _build_vtab(args)
    if args.root is None:
        raise ConfigError(f"command line: --root: missing; give the folder that the archives of {args.name} unpack to")
    from ditask_jax.data.prepared.preparing import Wish, prepare

    wish = Wish(args.name, parse_tasks(args.tasks), args.layout, args.depth_unit, args.semseg_classes, args.skip_bad)
    done = {"train": 0, "val": 0}
    with progress_bar("preparing") as update:

        def count(split: str, _: str, total: int) -> None:
            done[split] += 1
            update(split, done[split], total)

        target, manifest = prepare(wish, folder(args.root), folder(args.out), args.replace, _say, count)
    for split, entry in manifest["splits"].items():
        skipped = f", {len(entry['skipped'])} left out (listed in prepared.json)" if entry["skipped"] else ""
        other = "" if entry["examples"] == entry["published"] else f" ({entry['published']} as published)"
        print(f"{split}: {entry['examples']} examples{other}{skipped}")
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{target}: {' '.join(manifest['tasks'])}, {size / 1e6:.1f} MB; train with data.root={args.out}")
    return cli.OK


def _build_vtab(args) -> int:
    if args.task is None:
        raise ConfigError("command line: --task: missing; name one of the 19 tasks, for example --task cifar100")
    from ditask_jax.data.vtab import prepare_vtab

    target = prepare_vtab(args.task, folder(args.out), None if args.root is None else folder(args.root))
    print(f"{target}: prepared; train with data.root={args.out} and data.vtab_task={args.task}")
    return cli.OK


def _say(line: str) -> None:
    print(line, flush=True)
