"""`ditask-jax COMMAND`: every command by one name, as `python -m ditask_jax.COMMAND` runs it."""

import re
import subprocess
import sys
import tomllib

import pytest

from ditask_jax import __main__ as script
from ditask_jax import __version__, cli
from tests.test_architecture import COMMANDS, PACKAGE

ROOT = PACKAGE.parent


def started(*arguments, cwd=None):
    """Runs the script as it is installed, by its entry point; returns exit code and the lines of both streams."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["ditask-jax"].partition(":")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import {function}; sys.exit({function}())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_every_command_is_listed_with_a_line():
    listed = script.commands()
    programs = {name.partition(" ")[0] for name in COMMANDS} - {"__main__"}
    assert set(listed) == programs
    for name, line in listed.items():
        assert 20 < len(line) < 110, name
        assert line.endswith("."), name


def test_the_list_is_printed_without_jax():
    code = (
        "import runpy, sys\nsys.argv = ['ditask-jax', '--help']\n"
        "try:\n    runpy.run_module('ditask_jax', run_name='__main__')\n"
        "except SystemExit as end:\n    print(end.code, sorted({'jax', 'flax', 'cv2', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    *help_lines, last = done.stdout.splitlines()
    assert last == "0 []"
    named = [match[1] for line in help_lines if (match := re.match(r"  (\w+) {2,}\w", line))]
    assert named == sorted(script.commands())
    assert any(re.match(r"  base .*\bscenes\b", line) for line in help_lines)


def test_a_command_runs_as_the_module_does(tmp_path):
    """From any folder, and with what a user types in its help."""
    code, out, err = started("evaluate", "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith("usage: ditask-jax evaluate ")
    assert "\n  ditask-jax evaluate --workdir=" in out
    code, out, err = started("evaluate", f"--workdir={tmp_path}", cwd=tmp_path)
    assert (code, out) == (cli.USER_ERROR, "")
    assert re.fullmatch(r".*holds no run.*\n", err)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["trian"], cli.USER_ERROR, r"command line: 'trian': unknown command\. Did you mean 'train'\?"),
        (["--config=scenes"], cli.USER_ERROR, r"command line: '--config=scenes': unknown command\. Known: compare"),
        (["--version"], cli.OK, re.escape(f"ditask-jax {__version__}")),
        ([], cli.USER_ERROR, "usage: ditask-jax COMMAND"),
    ],
)
def test_what_is_no_command(arguments, code, text, capsys):
    assert cli.execute(script._without_command, arguments) == code
    captured = capsys.readouterr()
    assert re.match(text, captured.out + captured.err)
