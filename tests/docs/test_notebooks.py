"""The notebooks are whole, and run from top to bottom."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from launch import colab_install
from tests.docs.notebooks import as_python, code_cells
from tests.docs.pages import ROOT

NOTEBOOKS = sorted(ROOT.glob("launch/*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def test_there_are_two():
    assert [path.name for path in NOTEBOOKS] == ["colab.ipynb", "colab_folder.ipynb"]


@every_notebook
def test_a_notebook_is_whole(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert {"kernelspec", "language_info"} <= notebook["metadata"].keys()
    cells = notebook["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert cell["cell_type"] in ("code", "markdown")
        assert {"id", "metadata", "source"} <= cell.keys()
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert re.search(r"/(home|work|tmp|root|Users)/", path.read_text(encoding="utf-8")) is None


@every_notebook
def test_every_cell_compiles_and_says_what_it_installs(path):
    cells = code_cells(path)
    for cell in cells:
        ast.parse(as_python(cell))
    assert sum("launch/colab_install.py" in cell for cell in cells) == 1
    assert not any(re.search(r"pip install", cell) for cell in cells)


@every_notebook
def test_options_of_its_commands_exist(path, capsys):
    from tests.docs.test_pages import help_of

    lines = [line[1:] for cell in code_cells(path) for line in cell.splitlines() if line.startswith("!python -m")]
    assert len(lines) >= 2
    for line in lines:
        _, _, module, *words = shlex.split(line)
        program = f"{module} {words[0]}" if module == "ditask_jax.data" else module
        text = help_of(program, capsys)
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert [name for name in given if name not in text] == [], line


def wanted():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return colab_install.requirements(project)


def lowest(requirement: Requirement) -> str:
    return next(part.version for part in requirement.specifier if part.operator == ">=")


def test_what_fits_is_left_alone():
    versions = {requirement.name: lowest(requirement) for requirement in wanted()} | {"jaxlib": "0.10.2"}
    missing, pins, replaced = colab_install.decide(wanted(), versions.get)
    assert (missing, replaced) == ([], [])
    assert {pin.partition("==")[0] for pin in pins} == set(colab_install.PINNED)
    del versions["grain"]
    missing, pins, replaced = colab_install.decide(wanted(), versions.get)
    assert [Requirement(text).name for text in missing] == ["grain"]
    assert len(pins) == len(colab_install.PINNED)
    assert replaced == []


def test_a_jax_that_is_too_old_is_replaced_with_its_plugins():
    versions = {requirement.name: lowest(requirement) for requirement in wanted()}
    versions |= {"jax": "0.7.2", "jaxlib": "0.7.2", "jax-cuda12-plugin": "0.7.2"}
    missing, pins, replaced = colab_install.decide(wanted(), versions.get)
    (asked,) = (Requirement(text) for text in missing)
    assert (asked.name, asked.extras) == ("jax", {"cuda12"})
    assert {pin.partition("==")[0] for pin in pins} == {"numpy", "scipy"}
    assert replaced == ["jax 0.7.2"]


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs(path, tmp_path):
    small = {
        "DITASK_NOTEBOOK_STEPS": "3",
        "DITASK_NOTEBOOK_BATCH": "4",
        "DITASK_NOTEBOOK_WORKDIR": str(tmp_path),
        # A batch of four does not spread over the eight devices of the tests.
        "JAX_NUM_CPU_DEVICES": "1",
    }
    words = [sys.executable, "-m", "tests.docs.notebooks", str(path)]
    environment = os.environ | small | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert (tmp_path / "merged.safetensors").stat().st_size > 10_000
    if path.name == "colab.ipynb":
        assert (tmp_path / "adapter" / "adapter.json").is_file()
        assert (tmp_path / "panels.png").stat().st_size > 10_000
    else:
        assert (tmp_path / "predictions" / "panels" / "000.jpg.png").stat().st_size > 10_000
