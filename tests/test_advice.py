"""What messages advise exists: every field, option, module and extra that a text of the package names."""

import ast
import importlib.util
import pathlib
import re
import tomllib

import pytest

from ditask_jax.config_fields import all_fields

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIELDS = set(all_fields())
GROUPS = {".".join(name.split(".")[:depth]) for name in FIELDS for depth in range(1, name.count(".") + 1)}
LAST_PARTS = {name.split(".")[-1] for name in FIELDS}
# Options of other programs.
FOREIGN = {"gpus", "partition", "time", "ntasks-per-node"}


def documentation(tree):
    """The docstrings of a module, by identity."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield id(first.value)


def texts(tree):
    """(line, text) of what a module may print; `{}` stands for what is filled in."""
    passed_over = set(documentation(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed_over |= {id(part) for part in node.values}
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed_over:
            yield node.lineno, node.value


def options(tree):
    """Names that a module declares with `add_option`, `add_path` or `add_argument`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("add_option", "add_path", "add_argument"):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and str(argument.value).startswith("--"):
                    yield argument.value.removeprefix("--")


TREES = {path: ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "ditask_jax").rglob("*.py"))}
OPTIONS = {name for tree in TREES.values() for name in options(tree)} | {"config", "help"} | FOREIGN
TEXTS = [(f"{path.relative_to(ROOT)}:{line}", text) for path, tree in TREES.items() for line, text in texts(tree)]
# Sentences, and none of another program.
TEXTS = [(place, text) for place, text in TEXTS if " " in text and "#SBATCH" not in text]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
DOTTED = r"[a-z]\w*(?:\.[a-z]\w*)*"
# What a pattern finds -> whether it exists.
RULES = {
    rf"--config\.({DOTTED})": lambda name: name in FIELDS | GROUPS,
    rf"\bconfig: ({DOTTED})(?=: |$)": lambda name: name in FIELDS | GROUPS,
    rf"(?<![\w./-])((?:{'|'.join(sorted(GROUPS))})\.[a-z]\w*)": lambda name: name in FIELDS | GROUPS,
    r"(?<![\w-])--([a-z][a-z-]*)": lambda name: name in OPTIONS,
    r"\b(?:set|lower|raise) ([a-z]+(?:_[a-z]+)+)\b(?!\.)": lambda name: name in LAST_PARTS,
    r"python -m (ditask_jax(?:\.\w+)*)": lambda name: importlib.util.find_spec(name) is not None,
    r"ditask[-_]jax\[(\w+)\]": lambda name: name in EXTRAS,
}


def test_there_is_advice_to_check():
    for pattern in RULES:
        assert sum(bool(re.search(pattern, text)) for _, text in TEXTS) >= 3, pattern


@pytest.mark.parametrize("pattern", RULES)
def test_what_messages_name_exists(pattern):
    exists = RULES[pattern]
    assert not [f"{place}: {name}" for place, text in TEXTS for name in re.findall(pattern, text) if not exists(name)]
