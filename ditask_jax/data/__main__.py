"""`python -m ditask_jax.data`: checks data sets (`doctor`), prepares them (`build`), draws examples (`show`)."""

import importlib
from collections.abc import Sequence

from ditask_jax import cli
from ditask_jax.errors import ConfigError, did_you_mean

COMMANDS = {
    "doctor": "checks a data set: every file is there, samples decode, labels are what they must be",
    "build": "prepares a data set once, for fast reading and shorter checks",
    "show": "draws an example with all its labels, before and after augmentation",
}


def main(argv: Sequence[str]) -> int:
    """Runs one of `COMMANDS`; each is a module of `ditask_jax.data.commands` with `add_arguments` and `run`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return cli.OK if argv else cli.USER_ERROR
    name = argv[0]
    if name not in COMMANDS:
        raise ConfigError(f"command line: '{name}': unknown command. {did_you_mean(name, COMMANDS)}")
    command = importlib.import_module(f"ditask_jax.data.commands.{name}")
    summary = f"{COMMANDS[name].capitalize()}."
    parser = cli.Parser(f"ditask_jax.data {name}", summary, command.EXAMPLES, config=getattr(command, "CONFIG", None))
    command.add_arguments(parser)
    return command.run(parser.parse(argv[1:]))


def _usage() -> str:
    prog = cli.called("ditask_jax.data")
    lines = [f"  {name:<8} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {prog} COMMAND [options]",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            f"  {prog} doctor pascal --root PASCAL_MT",
            f"  {prog} build pascal --root PASCAL_MT --out prepared",
            "",
            "Each command has a --help of its own.",
        ]
    )


if __name__ == "__main__":
    cli.run(main)
