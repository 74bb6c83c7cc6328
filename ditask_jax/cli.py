"""What every command shares: options, `--config` with overrides, one-line errors, exit codes.

Exit codes: 0 done; 1 a bug (with its traceback); 2 a user's mistake or a full or read-only disk (one line); 75 told to
stop, saved, run again to resume; 130 interrupted from the keyboard; 141 the reader of a pipe has left. Importing this
module loads neither JAX nor a model, so that `--help` is quick. `DITASK_TRACEBACK=1` shows the traceback of exit code 2
as well; `DITASK_PLUGINS` names files of the user's own that are imported first (`ditask_jax.plugins`).
"""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from ditask_jax import program_cache, shell
from ditask_jax.config import load_config
from ditask_jax.errors import ConfigError, DitaskError, did_you_mean
from ditask_jax.files import user_path
from ditask_jax.hub.addresses import local_or_hub
from ditask_jax.plugins import load_plugins, place_of

OK = 0
BUG = 1
USER_ERROR = 2
PREEMPTED = 75
INTERRUPTED = 130
BROKEN_PIPE = 141

_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EACCES: "check the permissions or choose another folder",
    errno.EPERM: "check the permissions or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EEXIST: "a file stands where a folder is needed; choose another name",
    errno.EISDIR: "check the path",
}

_script = ""


def started_by(script: str) -> None:
    """Says that commands are called as arguments of a script such as "ditask-jax", for their help."""
    global _script
    _script = script


def called(module: str) -> str:
    """How a user of this process calls a command.

    >>> called("ditask_jax.train")
    'python -m ditask_jax.train'
    """
    return f"{_script} {module.removeprefix('ditask_jax.')}" if _script else f"python -m {module}"


class Parser(argparse.ArgumentParser):
    """An `argparse` parser with `--config` and its overrides, examples in the help, and one-line errors.

    Args:
        module: What is run, for example `"ditask_jax.train"`.
        summary: One sentence on what the command does.
        examples: Arguments of whole commands, shown in the help.
        config: "required", "optional", "overrides" for a command that takes overrides alone, or None for one without a
            configuration.

    >>> parser = Parser("ditask_jax.train", "Trains a model.", ["--config=configs/smoke.py --workdir=runs/smoke"])
    >>> parser.add_path("--workdir", required=True, metavar="DIR", help="folder of the run")
    >>> args = parser.parse(["--config=configs/pascal_swin_tiny.py", "--config.batch_size=8", "--workdir=runs/x"])
    >>> args.workdir, args.config.batch_size, args.overrides
    ('runs/x', 8, ('batch_size=8',))
    >>> parser.parse(["--wordir=x"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: command line: --wordir: unknown option. Did you mean '--workdir'? Known: ...
    """

    def __init__(self, module: str, summary: str, examples: Sequence[str] = (), *, config: str | None = "required"):
        self._config = config
        self._required: list[argparse.Action] = []
        self._paths: list[tuple[argparse.Action, Callable]] = []
        prog = called(module)
        lines = [f"  {prog} {example}" for example in examples]
        super().__init__(
            prog=prog,
            description=summary,
            epilog="\n".join(["examples:", *lines]) if lines else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if config in ("required", "optional"):
            note = (
                "configuration of the package by name, such as scenes, or a file by its path; with an optional "
                ":VARIANT; fields are overridden by --config.FIELD=VALUE"
            )
            self.add_option("--config", metavar="NAME", help=note, required=config == "required")

    def add_option(self, *names: str, **options) -> None:
        """Adds an option or a positional argument; the arguments are those of `argparse.add_argument`.

        Besides them, `required` may be given for options, and `former`: spellings of earlier versions, which stay valid
        without being shown. Of every option `--batch-size` the spelling `--batch_size` is valid too.
        """
        self._add(*names, **options)

    def add_path(self, *names: str, hub: bool = False, **options) -> None:
        """Adds an option whose values are paths: `~` is expanded and URLs are refused (`files.user_path`).

        With `hub` an address such as `hf://OWNER/REPO` is a value too.
        """
        self._paths.append((self._add(*names, **options), local_or_hub if hub else user_path))

    def _add(self, *names: str, required: bool = False, former: Sequence[str] = (), **options) -> argparse.Action:
        action = self.add_argument(*names, **options)
        if former:  # spellings of earlier versions: understood, and in no help
            hidden = options | {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS, "dest": action.dest}
            self.add_argument(*former, **hidden)
        if required:
            # Checked after unknown options, so that a misspelt one is named and not reported as missing.
            self._required.append(action)
        return action

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parses a command line.

        Returns:
            A namespace with every option, and, for a command with a configuration: `config` (the loaded, overridden and
            checked ConfigDict, or None when optional and absent), `config_source` (the text of `--config`) and
            `overrides`. For one that takes overrides alone: `overrides`.

        Raises:
            ConfigError: An unknown or malformed option, or a wrong configuration.
        """
        rest, overrides = _split_overrides(sys.argv[1:] if argv is None else argv)
        if self._config is None and overrides:
            raise ConfigError(
                f"command line: --config.{overrides[0]}: this command takes no configuration. {self._see()}"
            )
        args, unknown = self.parse_known_args([self._spelt(token) for token in rest])
        if unknown:
            raise self._unknown(unknown[0])
        missing = [action.option_strings[0] for action in self._required if getattr(args, action.dest) is None]
        if overrides and self._config != "overrides" and args.config is None and "--config" not in missing:
            missing.append("--config")
        if missing:
            raise ConfigError(f"command line: {' '.join(missing)}: missing. {self._see()}")
        for action, read in self._paths:
            name = action.option_strings[0] if action.option_strings else action.metavar
            setattr(args, action.dest, _as_paths(getattr(args, action.dest), f"command line: {name}", read))
        args.overrides = tuple(overrides)
        if self._config in ("required", "optional"):
            args.config_source = args.config
            args.config = None if args.config is None else load_config(args.config, overrides)
        return args

    def error(self, message: str) -> NoReturn:
        """Called by argparse; raises instead of printing the usage and leaving."""
        raise ConfigError(f"command line: {message.removeprefix('argument ')}. {self._see()}")

    def _see(self) -> str:
        return f"See {self.prog} --help"

    def _spelt(self, token: str) -> str:
        """`--batch_size=8` as `--batch-size=8`, where there is such an option."""
        name, equals, value = token.partition("=")
        hyphened = name.replace("_", "-")
        return f"{hyphened}{equals}{value}" if hyphened in self._option_string_actions else token

    def _unknown(self, token: str) -> ConfigError:
        if not token.startswith("-"):
            return ConfigError(f"command line: {token!r}: unexpected argument. {self._see()}")
        known = [
            action.option_strings[-1]
            for action in self._actions
            if action.option_strings and action.dest != "help" and action.help != argparse.SUPPRESS
        ]
        name = token.partition("=")[0]
        return ConfigError(f"command line: {name}: unknown option. {did_you_mean(name, known)}")


def _as_paths(value: str | list[str] | None, what: str, read: Callable) -> str | list[str] | None:
    if isinstance(value, list):
        return [str(read(item, what)) for item in value]
    return None if value is None else str(read(value, what))


def run(
    main: Callable[[list[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    unheard: bool = False,
    compiles: bool = False,
) -> NoReturn:
    """Runs a command and leaves the process with its exit code; the last line of every `__main__`.

    Args:
        main: Takes the arguments after the module's name; returns an exit code, or None for 0.
        argv: Those arguments; default: the process's own.
        unheard: Whether the command goes on where its lines cannot be printed, as its results are in files: a training.
        compiles: Whether programs that it compiles are kept for the next command (`ditask_jax.program_cache`).
    """
    shell.use_utf8()
    shell.open_streams()
    shell.settle_environment()
    shell.process_settings()
    shell.show_warnings()
    shell.hold_streams(unheard=unheard)
    code = execute(main, argv, compiles=compiles)
    if code in (USER_ERROR, INTERRUPTED) and _is_one_of_several():
        # On the usual way out JAX waits for the other processes, they for this one, and all are aborted in the end.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _is_one_of_several() -> bool:
    """Whether this process has joined others; asked without importing JAX."""
    distributed = sys.modules.get("jax.distributed")
    return distributed is not None and distributed.is_initialized()


def execute(
    main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None, *, compiles: bool = False
) -> int:
    """Calls `main` and returns the exit code; mistakes of a user become one line on the error stream.

    >>> def main(argv):
    ...     raise ConfigError("config: batch_size: got 0")
    >>> execute(main, [])
    2
    """
    shell.open_streams()
    _mark_absl_flags_parsed()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not {"-h", "--help"} & set(arguments):
            shell.check_environment()
        if folder := os.environ.get("DITASK_CACHE_DIR"):
            user_path(folder, "environment: DITASK_CACHE_DIR")  # a wrong one is named before anything is made
        if compiles and not {"-h", "--help"} & set(arguments):
            program_cache.keep_programs()
        load_plugins()
        code = main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has left (`... | head`).
        return BROKEN_PIPE
    except DitaskError as error:
        return _report(str(shell.explain(error) or error), USER_ERROR, error)
    except OSError as error:
        place = place_of(error)
        return _report((f"plugins: {place}: " if place else "") + _os_error_line(error), USER_ERROR, error)
    except KeyboardInterrupt as error:
        line = "interrupted; run the same command again, a training resumes from its last checkpoint"
        return _report(line, INTERRUPTED, error)
    except Exception as error:  # a bug, and raised again, unless the environment or a plug-in is to blame
        if (explained := shell.explain(error)) is not None:
            return _report(str(explained), USER_ERROR, error)
        if (place := place_of(error)) is None:
            raise
        # A bug, but not of this package: its traceback, and below that the line to look at.
        traceback.print_exception(error)
        text = " ".join(str(error).split())[:300]
        print(f"plugins: {place}: {type(error).__name__}: {text}", file=sys.stderr, flush=True)
        return BUG
    return OK if code is None else code


def _report(line: str, code: int, error: BaseException) -> int:
    if os.environ.get("DITASK_TRACEBACK") == "1":
        raise error
    print(" ".join(line.split()), file=sys.stderr, flush=True)
    return code


def _os_error_line(error: OSError) -> str:
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno)
    return f"file system: {where}{reason}" + (f"; {remedy}" if remedy else "")


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--config.FIELD=VALUE` and `--config.FIELD VALUE` out of a command line."""
    rest, overrides = [], []
    tokens = iter(range(len(argv)))
    for index in tokens:
        token = argv[index]
        if not token.startswith("--config."):
            rest.append(token)
            continue
        name, equals, value = token.removeprefix("--config.").partition("=")
        if not equals:
            following = argv[index + 1] if index + 1 < len(argv) else "--"
            if following.startswith("--"):
                raise ConfigError(f"config: {name}: no value; write --config.{name}=VALUE")
            value = following
            next(tokens)
        overrides.append(f"{name}={value}")
    return rest, overrides


def _mark_absl_flags_parsed() -> None:
    """Grain's worker processes read absl flags, which nobody else parses here."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
