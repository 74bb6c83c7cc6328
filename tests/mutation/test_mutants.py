"""The instrument itself: mutants differ from the program, run, and are noticed where something depends on them."""

import ast
import subprocess
import sys

import pytest

from ditask_jax.errors import ConfigError
from tests.mutation.__main__ import _module, attempt, check_unchanged, draw
from tests.mutation.mutants import mutants
from tests.mutation.packages import PACKAGES, ROOT, files, package

SOURCE = '''
"""Text 1."""
def f(x: int = 2, *, flag=True):
    """More 3."""
    if x > 0 and not flag:
        raise ValueError(f"{x + 1}")
    y = -x @ x
    y += 1.5
    return y if flag is None else [x]
'''


def test_every_kind_of_change_once_and_texts_never():
    found = list(mutants(SOURCE))
    assert len({mutant.source for mutant in found}) == len(found)
    plain = ast.unparse(ast.parse(SOURCE))
    for mutant in found:
        compile(mutant.source, "mutant", "exec")
        changed = [a for a, b in zip(plain.splitlines(), mutant.source.splitlines(), strict=True) if a != b]
        assert len(changed) == 1, mutant
    changes = {(mutant.before, mutant.after) for mutant in found}
    assert {
        ("2", "3"),
        ("True", "False"),
        ("x > 0", "x >= 0"),
        ("0", "1"),
        ("not flag", "flag"),
        ("x > 0 and (not flag)", "x > 0 or not flag"),
        ("x > 0 and (not flag)", "not (x > 0 and (not flag))"),
        ("-x", "x"),
        ("-x @ x", "-x * x"),
        ("y += 1.5", "y -= 1.5"),
        ("1.5", "2.5"),
        ("flag is None", "flag is not None"),
        ("flag is None", "not flag is None"),
    } == {change for change in changes if change[1] != "None"}
    assert sum(after == "None" for _, after in changes) == 1
    assert "1" not in {mutant.before for mutant in found}  # of the message of an error


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_have_files_tests_and_changes(name):
    assert all((ROOT / path).exists() for path in package(name).tests)
    drawn, total = draw(name, 3, 0, None)
    assert len(drawn) == 3 < total
    assert draw(name, 3, 0, None)[0] == drawn
    assert all(path in files(name) for path, _ in drawn)


def test_an_unknown_package_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'cpab'"):
        package("cpap")


def test_a_mutant_takes_the_place_of_its_module_and_of_nothing_else(tmp_path):
    path = ROOT / "ditask_jax" / "errors.py"
    (mutant,) = [mutant for mutant in mutants(path.read_text()) if mutant.before == "0.5"]
    file = tmp_path / "errors.py"
    file.write_text(mutant.source)
    code = (
        "import tests.mutation.plugin, ditask_jax.errors as errors, ditask_jax.files\n"
        "print(errors.__file__, errors.did_you_mean('semsge', ['semseg']), ditask_jax.files.__file__)"
    )
    variables = {"MUTANT_MODULE": _module(path), "MUTANT_FILE": str(file), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=ROOT, capture_output=True, text=True)
    # A cutoff of 1.5 is refused by difflib: the change is there.
    assert "cutoff must be in" in done.stderr
    del variables["MUTANT_MODULE"]
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split()[0] == str(path)
    assert "Did you mean 'semseg'" in done.stdout


def test_only_a_change_is_noticed():
    """A file that is also a test, by its doctests, put in its own place; then one that is changed."""
    path = ROOT / "ditask_jax" / "errors.py"
    check_unchanged(["ditask_jax/errors.py"], path, 300)
    (mutant,) = [mutant for mutant in mutants(path.read_text()) if mutant.before == "0.5"]
    assert attempt(["ditask_jax/errors.py"], path, mutant, 300).what == "noticed"
