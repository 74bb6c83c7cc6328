"""What messages advise exists: every field, option, module and extra that a text of the package names."""

import ast
import functools
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


def texts(nodes):
    """(line, text) of what a module may print; `{}` stands for what is filled in."""
    passed_over = set()
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            passed_over |= {id(part) for part in node.values}
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                passed_over.add(id(first.value))  # the docstring
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed_over:
            yield node.lineno, node.value


def options(nodes):
    """Names that a module declares with `add_option`, `add_path` or `add_argument`."""
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("add_option", "add_path", "add_argument"):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and str(argument.value).startswith("--"):
                    yield argument.value.removeprefix("--")


@functools.cache
def package() -> tuple[frozenset[str], tuple[tuple[str, str], ...]]:
    """Options of all commands, and (place, text) of every sentence: read once, and not while tests are collected."""
    known, found = {"config", "help"} | FOREIGN, []
    for path in sorted((ROOT / "ditask_jax").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        known |= set(options(nodes))
        # Sentences, and none of another program.
        sentences = ((line, text) for line, text in texts(nodes) if " " in text and "#SBATCH" not in text)
        found += [(f"{path.relative_to(ROOT)}:{line}", text) for line, text in sentences]
    return frozenset(known), tuple(found)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEEDED = [*PROJECT["dependencies"], *(text for texts in PROJECT["optional-dependencies"].values() for text in texts)]
# What may be asked of an index. This package itself is on none.
PACKAGES = {re.split(r"[^\w-]", text)[0].lower() for text in NEEDED}
DOTTED = r"[a-z]\w*(?:\.[a-z]\w*)*"
# What a pattern finds -> whether it exists.
RULES = {
    rf"--config\.({DOTTED})": lambda name: re.sub(r"^task\.\w+", "task.NAME", name) in FIELDS | GROUPS | {"task.NAME"},
    rf"\bconfig: ({DOTTED})(?=: |$)": lambda name: name in FIELDS | GROUPS,
    rf"(?<![\w./-])((?:{'|'.join(sorted(GROUPS))})\.[a-z]\w*)": lambda name: name in FIELDS | GROUPS,
    r"(?<![\w-])--([a-z][a-z-]*)": lambda name: name in package()[0],
    r"\b(?:set|lower|raise) ([a-z]+(?:_[a-z]+)+)\b(?!\.)": lambda name: name in LAST_PARTS,
    r"python -m (ditask_jax(?:\.\w+)*)": lambda name: importlib.util.find_spec(name) is not None,
    r"pip install '?([a-z][\w-]*)": lambda name: name.lower() in PACKAGES,
}


def test_there_is_advice_to_check():
    for pattern in RULES:
        assert sum(bool(re.search(pattern, text)) for _, text in package()[1]) >= 3, pattern


@pytest.mark.parametrize("pattern", RULES)
def test_what_messages_name_exists(pattern):
    exists = RULES[pattern]
    named = ((place, name) for place, text in package()[1] for name in re.findall(pattern, text))
    assert not [f"{place}: {name}" for place, name in named if not exists(name)]
