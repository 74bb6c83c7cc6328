"""Options that the commands on data sets share."""

import argparse
from pathlib import Path

from ditask_jax.errors import ConfigError
from ditask_jax.files import user_path


def add_tree_options(parser, names, root_required: bool = True) -> None:
    """`NAME --root DIR`, and what tells one package of a data set from another."""
    parser.add_option("name", metavar="NAME", help=f"data set: {' '.join(names)}")
    parser.add_path("--root", required=root_required, metavar="DIR", help="folder of the data set")
    parser.add_option("--tasks", metavar="A+B", help="labels, joined by + (default: the usual ones)")
    parser.add_option("--layout", metavar="NAME", help="package: astmt, vandenhende, atrc, official, mtan")
    units = "nyud, folder: metres, millimetres; cityscapes: pixels, metres"
    parser.add_option("--depth-unit", metavar="UNIT", help=units)
    parser.add_option("--semseg-classes", type=int, metavar="N", help="classes of semseg (cityscapes mtan: 7 or 19)")


def add_folder_options(parser) -> None:
    """What a folder of one's own may need said besides; in a configuration, the fields of `data` of the same names."""
    parser.add_option("--human-parts-classes", type=int, metavar="N", help="folder: classes of human_parts")
    parser.add_option("--val-fraction", type=float, metavar="F", help="folder: share of train/ for validation")
    ignores = "folder: true: 255 means ignore in masks too; false: it means yes in class maps of two classes too"
    parser.add_option("--mask-ignore", type=_yes_or_no, metavar="BOOL", help=ignores)
    below = "folder: true: read pictures in folders below images/; false: pass over them"
    parser.add_option("--subfolders", type=_yes_or_no, metavar="BOOL", help=below)


def folder_options(args) -> dict:
    """The keyword arguments of `FolderSource` that a command line gives."""
    asked = {"semseg": args.semseg_classes, "human_parts": args.human_parts_classes}
    names = ("val_fraction", "mask_ignore", "depth_unit", "subfolders")
    counts = {task: count for task, count in asked.items() if count is not None}
    return {"num_classes": counts} | {name: getattr(args, name) for name in names}


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
