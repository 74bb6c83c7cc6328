"""All commands behind one name: `ditask-jax COMMAND ...` is `python -m ditask_jax.COMMAND ...`."""

import pathlib
import re
import runpy
import sys
from typing import NoReturn

from ditask_jax import __version__, cli
from ditask_jax.config import packaged
from ditask_jax.errors import ConfigError, did_you_mean

# How the file of a command begins; what it does stands behind its name.
_HEAD = re.compile(r'"""`python -m ditask_jax\.(\w+)`: (.*?)(?:"""|\n)')
_ENOUGH = 400  # characters


def commands() -> dict[str, str]:
    """Every command with a line on what it does, read from the files without importing them.

    >>> commands()["train"]
    'trains a configuration in a folder; run again, it resumes.'
    """
    folder = pathlib.Path(__file__).parent
    found = {}
    for path in (*folder.glob("*.py"), *folder.glob("*/__main__.py")):
        with path.open(encoding="utf-8") as file:
            match = _HEAD.match(file.read(_ENOUGH))
        if match:
            found[match[1]] = match[2]
    return dict(sorted(found.items()))


def main() -> NoReturn:
    """Runs the command that is named first, with the arguments behind it; the process ends with its exit code."""
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if command not in commands():
        cli.run(_without_command)
    cli.started_by("ditask-jax")
    sys.argv[1:] = arguments
    # As `python -m` does it: worker processes of the loader ask which module the process runs.
    runpy.run_module(f"ditask_jax.{command}", run_name="__main__", alter_sys=True)
    sys.exit(cli.OK)


def _without_command(argv: list[str]) -> int:
    first = argv[0] if argv else "--help"
    if first in ("-h", "--help"):
        print(_help())
        return cli.OK if argv else cli.USER_ERROR
    if first == "--version":
        print(f"ditask-jax {__version__}")
    else:
        raise ConfigError(
            f"command line: '{first}': unknown command. {did_you_mean(first, list(commands()))}; see ditask-jax --help"
        )
    return cli.OK


def _help() -> str:
    lines = commands()
    width = max(map(len, lines))
    files = packaged()
    folder = next(iter(files.values())).parent
    return "\n".join(
        [
            "usage: ditask-jax COMMAND [OPTIONS]",
            "",
            "Multi-task fine-tuning of vision transformers by diffeomorphic singular values.",
            "",
            "commands:",
            *(f"  {name:{width}}  {line}" for name, line in lines.items()),
            "",
            "ditask-jax COMMAND --help shows the options of a command.",
            "",
            f"configurations, for --config=NAME (in {folder}):",
            f"  {' '.join(files)}",
            "",
            "examples:",
            "  ditask-jax train --config=scenes --workdir=runs/scenes",
            "  ditask-jax describe --config=scenes:frozen",
        ]
    )


if __name__ == "__main__":
    main()
