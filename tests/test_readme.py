"""The README keeps its word: its sample runs, and what it names exists."""

import ast
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from ditask_jax import cli
from ditask_jax.config import flatten, load_config
from ditask_jax.config_fields import all_fields

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAX_SAMPLE_LINES = 15


def python_sample() -> str:
    (sample,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return sample


def commands() -> list[tuple[str, list[str]]]:
    """Every `python -m ditask_jax.NAME ...` of the README as (module, or module and command of `data`, arguments)."""
    found = re.findall(r"python -m (ditask_jax\.\w+)([^`\n]*)", README)
    split = [(module, shlex.split(rest, comments=True)) for module, rest in found]
    return [(f"{m} {words[0]}", words[1:]) if m == "ditask_jax.data" else (m, words) for m, words in split]


def section(title: str) -> str:
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, flags=re.DOTALL | re.MULTILINE)
    if match is None:
        pytest.fail(f"the README has no section '{title}'")
    return match[1]


def rows(text: str, header: str) -> list[list[str]]:
    """Cells of the table whose first header cell is `header`."""
    lines = text.split(f"| {header} |", 1)[1].splitlines()[2:]
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


@pytest.mark.slow  # .ci/run does not leave it out
def test_the_sample_runs(tmp_path, monkeypatch, capsys):
    sample = python_sample()
    assert sum(1 for line in sample.splitlines() if line.strip()) <= MAX_SAMPLE_LINES
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(sample, "README.md", "exec"), names)
    plan, trainer = names["plan"], names["trainer"]
    printed = capsys.readouterr().out
    assert str(plan) in printed
    assert plan.trainable_backbone > 0
    assert trainer.step == trainer.total_steps == 3
    assert (tmp_path / "runs/sample/metrics.jsonl").read_text().count("\n") == 3
    scores = ast.literal_eval(printed.splitlines()[-1])
    assert {task: set(found) for task, found in scores.items()} == {"semseg": {"mIoU"}, "depth": {"rmse", "log_rmse"}}


def test_there_are_commands_to_check():
    assert {module for module, _ in commands()} >= {"ditask_jax.train", "ditask_jax.evaluate", "ditask_jax.describe"}
    assert "bash launch/quickstart.sh" in README
    assert "bash launch/test.sh" in README


@pytest.mark.parametrize("module", sorted({module for module, _ in commands()}))
def test_modules_of_commands_have_help(module):
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    for other, arguments in commands():
        for argument in arguments if other == module else ():
            name = argument.partition("=")[0]
            if name.startswith("--") and not name.startswith("--config."):
                assert name in done.stdout, f"{module} has no option {name}"


@pytest.mark.parametrize(
    "arguments", [a for _, a in commands() if any(word.startswith("--config=") for word in a)], ids=" ".join
)
def test_configurations_of_commands_load(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    source = next(word.removeprefix("--config=") for word in arguments if word.startswith("--config="))
    overrides = [word for word in arguments if word.startswith("--config.")]
    config = load_config(source, overrides)
    for override in overrides:
        name, _, value = override.removeprefix("--config.").partition("=")
        found = flatten(config)[name]
        assert (",".join(found) if isinstance(found, tuple) else str(found)) == value


def test_scripts_and_links_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    scripts = re.findall(r"bash (launch/\S+\.sh)", README)
    locks = re.findall(r"requirements[\w-]*\.txt", README)
    local = [link for link in links if not link.startswith("https://")] + scripts + locks
    assert len(local) >= 6
    assert [name for name in local if not (ROOT / name).is_file()] == []


def test_configuration_files_and_their_variants_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    table = rows(section("Configurations"), "file")
    named = {file: text for files, text in table for file in re.findall(r"`([^`]+)`", files)}
    assert set(named) == {f"configs/{path.name}" for path in ROOT.glob("configs/*.py")}
    for name, text in named.items():
        for variant in re.findall(r"`:(\w+)`", text):
            load_config(f"{name}:{variant}")


def test_fields_of_the_table_exist():
    known = set(all_fields())
    named = [name for cells in rows(section("Configurations"), "field") for name in re.findall(r"`([\w.]+)`", cells[0])]
    assert len(named) > 10
    assert [name for name in named if name not in known] == []


def test_exit_codes_are_those_of_the_commands():
    listed = [int(cells[0]) for cells in rows(section("Configurations"), "exit code")]
    defined = [cli.OK, cli.BUG, cli.USER_ERROR, cli.PREEMPTED, cli.INTERRUPTED, cli.BROKEN_PIPE]
    assert listed == defined


def test_counts_of_the_published_configuration():
    from ditask_jax.training.experiment import describe_plan

    table = rows(section("Results"), "cells, shared and per task")
    for cells, here, originals in table:
        shared, own = numbers(cells)
        overrides = {"method.shared_cells": shared, "method.task_cells": own}
        plan = describe_plan(load_config(ROOT / "configs/pascal_swin_tiny.py", overrides))
        assert numbers(here) == [plan.trainable_backbone, plan.trainable_total]
        assert numbers(originals) == list(plan.upstream.values())


def numbers(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", text)]
