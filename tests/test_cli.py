"""The command-line skeleton: exit codes, one-line errors, options, a quick help."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from ditask_jax import cli
from ditask_jax.errors import CheckpointError, ConfigError

CHECKOUT = pathlib.Path(__file__).parents[1]
PASCAL = f"--config={CHECKOUT / 'configs' / 'pascal_swin_tiny.py'}"


def _parser(config="required"):
    parser = cli.Parser(
        "ditask_jax.train", "Trains a model.", ["--config=configs/smoke.py --workdir=DIR"], config=config
    )
    parser.add_option("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_option("--steps", type=int, default=3)
    parser.add_option("--quiet", action="store_true")
    return parser


def _raise(error):
    def main(argv):
        raise error

    return main


def test_options_and_overrides_in_both_spellings():
    arguments = [
        PASCAL + ":full",
        "--config.batch_size",
        "8",
        "--workdir=x",
        "--config.data.scale",
        "0.5,1",
        "--quiet",
    ]
    args = _parser().parse([*arguments, "--steps", "4"])
    assert (args.config.batch_size, args.config.data.scale, args.config.method.name) == (8, (0.5, 1.0), "full")
    assert (args.workdir, args.steps, args.quiet) == ("x", 4, True)
    assert args.overrides == ("batch_size=8", "data.scale=0.5,1")
    assert args.config_source.endswith("pascal_swin_tiny.py:full")
    args = _parser("optional").parse(["--workdir=x"])
    assert (args.config, args.config_source, args.overrides) == (None, None, ())
    assert not hasattr(_parser(None).parse(["--workdir=x"]), "config")


def test_hyphens_underscores_and_former_spellings():
    parser = _parser(None)
    parser.add_option("--batch-size", type=int, default=8, former=("--batch",))
    for arguments in (["--batch-size=4"], ["--batch_size=4"], ["--batch_size", "4"], ["--batch", "4"]):
        assert parser.parse(["--workdir=a_b", *arguments]).batch_size == 4
    assert parser.parse(["--workdir=x"]).batch_size == 8
    assert "--batch " not in parser.format_help()
    with pytest.raises(ConfigError, match=r"--bach_size: unknown option. Did you mean '--batch-size'\? (?!.*--batch )"):
        parser.parse(["--workdir=x", "--bach_size=4"])


@pytest.mark.parametrize(
    ("config", "arguments", "line"),
    [
        ("required", [PASCAL], "command line: --workdir: missing. See python -m ditask_jax.train --help"),
        ("required", ["--workdir=x"], "command line: --config: missing. See"),
        ("required", [], "command line: --config --workdir: missing. See"),
        ("optional", ["--workdir=x", "--config.seed=1"], "command line: --config: missing. See"),
        (
            None,
            ["--workdir=x", "--config.seed=1"],
            "command line: --config.seed=1: this command takes no configuration",
        ),
        (
            "required",
            [PASCAL, "--wordir=x"],
            "command line: --wordir: unknown option. Did you mean '--workdir'? Known:",
        ),
        ("required", [PASCAL, "--work=x"], "command line: --work: unknown option. Did you mean '--workdir'?"),
        ("required", [PASCAL, "--workdir=x", "extra"], "command line: 'extra': unexpected argument"),
        ("required", [PASCAL, "--workdir"], "command line: --workdir: expected one argument"),
        ("required", [PASCAL, "--workdir=x", "--steps=a"], "command line: --steps: invalid int value: 'a'"),
        (
            "required",
            [PASCAL, "--workdir=x", "--config.batch_size"],
            "config: batch_size: no value; write --config.batch_size=",
        ),
        (
            "required",
            [PASCAL, "--config.optimizr.lr=1", "--workdir=x"],
            "config: optimizr: unknown field. Did you mean",
        ),
        ("required", ["--config=nothing.py", "--workdir=x"], "config: nothing.py: no such file"),
    ],
)
def test_a_wrong_command_line_is_one_line(config, arguments, line):
    with pytest.raises(ConfigError) as caught:
        _parser(config).parse(arguments)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("config: seed: got -1"), 2, "config: seed: got -1\n"),
        (CheckpointError("checkpoint: two\nlines"), 2, "checkpoint: two lines\n"),
        (
            OSError(28, "No space left on device", "/runs/x"),
            2,
            "file system: /runs/x: No space left on device; free some",
        ),
        (
            PermissionError(13, "Permission denied", "/x"),
            2,
            "file system: /x: Permission denied; check the permissions",
        ),
        (FileExistsError(17, "File exists", "/x"), 2, "file system: /x: File exists; a file stands where a folder is"),
        (OSError("odd"), 2, "file system: odd\n"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted; run the same command again, a training resumes from its last checkpoint\n",
        ),
    ],
)
def test_mistakes_become_one_line_and_a_code(error, code, line, capsys):
    assert cli.execute(_raise(error), []) == code
    printed = capsys.readouterr()
    assert printed.err.startswith(line)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_codes_of_main_pass_through_and_bugs_keep_their_traceback(monkeypatch):
    assert cli.execute(lambda argv: None, []) == 0
    assert cli.execute(lambda argv: cli.PREEMPTED, []) == 75
    assert cli.execute(lambda argv: len(argv), ["a", "b"]) == 2
    with pytest.raises(ZeroDivisionError):
        cli.execute(lambda argv: 1 // 0, [])
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda argv: 75, [])
    assert caught.value.code == 75
    monkeypatch.setenv("DITASK_TRACEBACK", "1")
    with pytest.raises(ConfigError):
        cli.execute(_raise(ConfigError("x")), [])


def _python(code, *arguments, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    environment = dict(os.environ, PYTHONPATH=str(CHECKOUT))
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False, **options)


def test_as_a_process_help_is_light_and_bugs_exit_1(tmp_path):
    code = """
        import sys
        from ditask_jax import cli

        def main(argv):
            if argv == ["bug"]:
                raise RuntimeError("a bug")
            if argv == ["pipe"]:
                for _ in range(100_000):
                    print("x" * 100)
            parser = cli.Parser("ditask_jax.train", "Trains.", ["--config=configs/smoke.py --workdir=DIR"])
            try:
                parser.parse(argv)
            finally:
                heavy = {"jax", "flax", "torch", "tensorflow", "orbax"} & set(sys.modules)
                print("heavy:", sorted(heavy))

        cli.run(main)
    """
    shown = _python(code, "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "heavy: []" in shown.stdout
    assert "python -m ditask_jax.train --config=configs/smoke.py --workdir=DIR" in shown.stdout
    wrong = _python(code, "--hlep", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "command line: --hlep: unknown option. Known: --config\n")
    bug = _python(code, "bug", cwd=tmp_path)
    assert bug.returncode == 1
    assert bug.stderr.startswith("Traceback")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    piped = subprocess.run(
        f"set -o pipefail; {sys.executable} {script} pipe | head -1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(CHECKOUT)),
        timeout=60,
        check=False,
    )
    assert (piped.returncode, piped.stderr) == (cli.BROKEN_PIPE, "")
