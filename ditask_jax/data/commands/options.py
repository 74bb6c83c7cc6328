"""Options that the commands on data sets share."""

from pathlib import Path

from ditask_jax.errors import ConfigError
from ditask_jax.files import user_path


def add_tree_options(parser, names, root_required: bool = True) -> None:
    """`NAME --root DIR`, and what tells one package of a data set from another."""
    parser.add_option("name", metavar="NAME", help=f"data set: {' '.join(names)}")
    parser.add_option("--root", required=root_required, metavar="DIR", help="folder of the data set")
    parser.add_option("--tasks", metavar="A+B", help="labels, joined by + (default: the usual ones)")
    parser.add_option("--layout", metavar="NAME", help="package: astmt, vandenhende, atrc, official, mtan")
    parser.add_option("--depth-unit", metavar="UNIT", help="nyud: metres, millimetres; cityscapes: pixels, metres")
    parser.add_option("--semseg-classes", type=int, metavar="N", help="classes of semseg (cityscapes mtan: 7 or 19)")


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
