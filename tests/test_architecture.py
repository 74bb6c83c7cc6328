"""The structure of the package: who may import whom, how many files there are, and habits that a reader relies on.

python -m tests.test_architecture     prints what is counted here: files and lines per folder, and the imports
"""

import ast
import collections
import functools
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import ditask_jax

PACKAGE = pathlib.Path(ditask_jax.__file__).resolve().parent
NAME = PACKAGE.name
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_FILES = 225
MOST_LINES = 450

# Part of the package (a folder or a module at its top) -> parts that it may import, besides itself. All must be listed.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "options": {"errors"},
    "files": {"errors"},
    "hub": {"errors", "files"},
    "labels": set(),
    "numerics": set(),
    "plugins": {"errors", "files"},
    "cpab": {"errors", "numerics"},
    "factors": {"errors", "files", "shell"},
    "nn": {"errors", "numerics"},
    "backbones": {"errors", "nn"},
    "heads": {"errors", "options", "nn", "numerics"},
    "model": {"errors", "options", "nn", "backbones", "heads"},
    "weight_files": {"errors", "files"},
    "weights": {"errors", "nn", "weight_files"},
    "adapters": {
        "errors",
        "files",
        "options",
        "numerics",
        "cpab",
        "factors",
        "hub",
        "nn",
        "backbones",
        "model",
        "weight_files",
    },
    "conversion": {"errors", "files", "hub", "factors", "nn", "backbones", "model", "adapters", "weight_files"},
    "tasks": {"errors", "files", "labels", "numerics", "options"},
    "scenes": {"errors"},
    "data": {"errors", "files", "labels", "scenes", "shell"},
    "registering": {"errors", "data", "tasks"},
    "config_data": {"errors", "options"},
    "config_sections": {"errors", "options", "config_data"},
    "config_tasks": {"errors", "options", "tasks"},
    "config_fields": {"errors", "files", "hub", "options", "config_sections", "config_tasks", "adapters", "heads"},
    "config": {"errors", "files", "options", "config_sections", "config_fields"},
    "shell": {"errors"},
    "program_cache": {"errors", "factors"},
    "cli": {"errors", "files", "hub", "config", "plugins", "program_cache", "shell"},
    "plots": {"errors", "files", "tasks"},
}
# Above all of them, and below the commands.
MAY_IMPORT["training"] = set(MAY_IMPORT) - {"cli"}
MAY_IMPORT["prediction"] = set(MAY_IMPORT) - {"cli"}
MAY_IMPORT["reports"] = set(MAY_IMPORT) - {"cli"}
MAY_IMPORT["scenes pretraining"] = set(MAY_IMPORT) - {"cli"}
MAY_IMPORT["describe"] = set(MAY_IMPORT) - {"cli"}
MAY_IMPORT["preflight"] = set(MAY_IMPORT) - {"cli"}
MAY_IMPORT["sweeps"] = {
    "errors",
    "files",
    "hub",
    "options",
    "plugins",
    "config",
    "cli",
    "tasks",
    "training",
    "reports",
    "plots",
}
WITH_FLAX = {"nn", "backbones", "heads", "model", "adapters", "weights"}
# Worker processes of the loader import these; JAX in them would cost seconds and, on a GPU, memory.
WITHOUT_JAX = {
    *("errors", "files", "hub", "labels", "plugins", "scenes", "data", "factors", "weight_files"),
    *(
        "options",
        "config_data",
        "config_sections",
        "config_tasks",
        "config_fields",
        "config",
        "shell",
        "program_cache",
        "cli",
    ),
}
# A file per entry of a registry; every other folder is to be taken in at a glance.
OF_A_REGISTRY = {"methods", "backbones", "tasks", "heads"}
MOST_IN_A_FOLDER = 22


@functools.cache
def tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def shown(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def part(path: pathlib.Path) -> str:
    """The folder or module of the package that a file belongs to, its programs apart."""
    first, *rest = path.relative_to(PACKAGE).parts
    if first == "data" and rest[0] in ("commands", "__main__.py"):
        return "data commands"  # `python -m ditask_jax.data`, which draws with the tasks; the library below does not
    if rest == ["__main__.py"]:
        return f"{first} command"
    if first == "scenes" and rest == ["pretraining.py"]:
        return "scenes pretraining"  # trains on scenes, where the rest of the folder only makes them
    return first.removesuffix(".py")


@functools.cache
def imports(path: pathlib.Path) -> tuple[tuple[str, int], ...]:
    """Every imported name with its line, those inside functions too; `from a import b` gives `a` and `a.b`."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                pytest.fail(f"{shown(path)}, line {node.lineno}: relative import; write the package's name")
            found += [(node.module, node.lineno)]
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return tuple(found)


def is_command(path: pathlib.Path) -> bool:
    """Whether a file is a program: it ends in `if __name__ == "__main__"`."""
    # Asked of every file while tests are collected, where parsing them all takes a second.
    return "__name__" in path.read_text(encoding="utf-8") and any(
        isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree(path).body
    )


def parts_imported(path: pathlib.Path) -> dict[str, int]:
    """Parts of the package that a file imports, with a line each."""
    names = {item.stem for item in PACKAGE.iterdir() if item.suffix == ".py" or (item / "__init__.py").exists()}
    found = {}
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] == NAME and len(parts) > 1 and parts[1] in names:
            found.setdefault(parts[1], line)
    return found


COMMANDS = {part(path) for path in FILES if is_command(path)}
LIBRARY = [path for path in FILES if part(path) not in COMMANDS | {"__init__"}]


def test_there_is_something_to_check():
    assert len(LIBRARY) > 40
    assert "pretrain" in COMMANDS
    assert parts_imported(PACKAGE / "adapters" / "wrap.py").keys() >= {"nn", "model", "factors"}


def test_every_part_has_its_place():
    unknown = sorted({part(path) for path in LIBRARY} - set(MAY_IMPORT))
    assert unknown == [], f"say in MAY_IMPORT what these may import: {unknown}"


@pytest.mark.parametrize("path", LIBRARY, ids=shown)
def test_imports_go_one_way(path):
    here = part(path)
    allowed = MAY_IMPORT.get(here, set()) | {here}
    wrong = [f"{shown(path)}, line {line}: {here} imports {other}" for other, line in parts_imported(path).items()]
    wrong = [text for text in wrong if text.rsplit(" ", 1)[1] not in allowed]
    assert wrong == []


def test_the_page_has_every_part_once():
    """The table of docs/architecture.md names the packages and modules that exist, and no others."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = page.partition("| part |")[2].partition("\n\n")[0].splitlines()[2:]
    named = [name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__", "__main__"}
    assert set(named) - {"__main__"} == parts
    once = collections.Counter(name for row in rows[:-1] for name in re.findall(r"`([^`]+)`", row.split("|")[1]))
    assert [name for name, count in once.items() if count > 1] == []
    steps = re.findall(r"^\d+\. `(\w+/?\w+\.py)`", page, re.MULTILINE)
    assert 5 < len(steps) <= 12
    assert [name for name in steps if not (PACKAGE / name).is_file()] == []


def test_parts_form_no_cycle():
    placed: set[str] = set()
    while remaining := set(MAY_IMPORT) - placed:
        ready = {name for name in remaining if MAY_IMPORT[name] <= placed}
        assert ready, f"these parts import each other in a circle: {sorted(remaining)}"
        placed |= ready


def test_files_form_no_cycle():
    """Whatever is imported first, by a worker process for one, finds what it needs: no file waits for itself."""
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES}
    files = {name.removesuffix(".__init__"): path for path, name in names.items()}

    def needed(path: pathlib.Path) -> set[pathlib.Path]:
        """Files that are run before this one: what it imports outside of functions, and the packages around that."""
        found = set()
        for node in tree(path).body:
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == NAME:
                for name in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]:
                    parts = name.split(".")
                    found |= {files.get(".".join(parts[:end])) for end in range(1, len(parts) + 1)}
        return {other for other in found - {None, path} if other.stem != "__init__" or other.parent not in path.parents}

    placed: set[pathlib.Path] = set()
    while remaining := set(FILES) - placed:
        ready = {path for path in remaining if needed(path) <= placed}
        assert ready, f"these files import each other in a circle: {sorted(map(shown, remaining))}"
        placed |= ready


def test_nothing_imports_a_command():
    importers = [(shown(path), sorted(parts_imported(path).keys() & COMMANDS)) for path in FILES]
    assert [entry for entry in importers if entry[1]] == []


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_flax_and_jax_stay_in_their_parts(path):
    outside = {name.split(".")[0]: line for name, line in imports(path)}
    if part(path) not in WITH_FLAX:
        assert "flax" not in outside, f"{shown(path)}, line {outside['flax']}: flax belongs to {sorted(WITH_FLAX)}"
    if part(path) in WITHOUT_JAX:
        assert "jax" not in outside, f"{shown(path)}, line {outside['jax']}: this part must work without JAX"


def folders() -> dict[str, list[pathlib.Path]]:
    """The files of every folder of the package."""
    found = collections.defaultdict(list)
    for path in FILES:
        found[shown(path.parent)].append(path)
    return dict(found)


def lines(path: pathlib.Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def test_there_are_not_too_many_files():
    assert len(FILES) <= MOST_FILES, "two files that are read together are one module"
    for folder, paths in folders().items():
        if folder != NAME and pathlib.Path(folder).name not in OF_A_REGISTRY:
            assert len(paths) <= MOST_IN_A_FOLDER, f"{folder} holds {len(paths)} files"


def test_no_two_files_have_one_name():
    counts = collections.Counter(path.name for path in FILES if path.stem not in ("__init__", "__main__"))
    assert [name for name, count in counts.items() if count > 1] == []


def test_json_never_holds_what_is_no_json():
    """Every call that writes JSON refuses NaN and infinities; `files.json_text` makes them null first."""
    benchmarks = sorted((PACKAGE.parent / "benchmarks").glob("*.py"))
    calls = [
        (shown(path), node.lineno, ast.unparse(node))
        for path in [*FILES, *benchmarks]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute | ast.Name | ast.Call) and "json.dump" in ast.unparse(node)[:10]
    ]
    assert len(calls) > 10
    # A function handed on, as in `map(json.dumps, ...)`, is no call and has no arguments.
    checked = {(path, line) for path, line, text in calls if "allow_nan=False" in text}
    assert [entry for entry in calls if entry[:2] not in checked] == []


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES, f"{shown(path)} has more than {MOST_LINES} lines: one concept per file"
    assert ast.get_docstring(tree(path)), f"{shown(path)} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_no_asserts_and_no_silent_handlers(path):
    for node in ast.walk(tree(path)):
        where = f"{shown(path)}, line {getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{where}: assert vanishes under -O; raise an error"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"
            broad = {"Exception", "BaseException"} & {
                name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)
            }
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            assert not (broad and silent), f"{where}: whatever goes wrong is swallowed; name the error that is expected"


def test_public_names_exist_and_are_described():
    assert len(ditask_jax.__all__) == len(set(ditask_jax.__all__)) > 0
    for name in ditask_jax.__all__:
        value = getattr(ditask_jax, name)
        if not isinstance(value, str):
            assert inspect.getdoc(value), f"ditask_jax.{name} has no docstring"
    assert set(ditask_jax.__all__) <= set(dir(ditask_jax))


def test_packages_list_names_that_exist():
    for path in FILES:
        if path.name == "__init__.py" and path.parent != PACKAGE:
            name = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
            module = importlib.import_module(name)
            missing = [entry for entry in getattr(module, "__all__", ()) if not hasattr(module, entry)]
            assert missing == [], f"{name}.__all__ lists {missing}"


def test_public_names_mean_the_same_in_any_order():
    """`tasks` is the package, whatever was imported before, and `create_tasks` the function."""
    code = """
import ditask_jax as dj
dj.Trainer
import ditask_jax.tasks
from ditask_jax.tasks import DATASETS
print([task.name for task in dj.create_tasks("semseg+depth", dataset="scenes")], type(dj.tasks).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert done.stdout == "['semseg', 'depth'] module\n", done.stderr


def test_the_old_name_of_create_tasks_is_explained():
    code = "import ditask_jax as dj\ndj.tasks('depth')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert "import ditask_jax.tasks for the package, or call create_tasks(...)" in done.stderr


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import ditask_jax", {"torch", "tensorflow", "jax", "flax", "orbax"}),
        ("import ditask_jax.cli", {"torch", "tensorflow", "jax", "flax", "orbax"}),
        ("import ditask_jax.training.checkpoints", {"torch", "tensorflow", "orbax"}),
        ("import ditask_jax.data", {"torch", "tensorflow", "flax", "jax", "grain", "scipy"}),
        ("import ditask_jax.data.sources", {"torch", "tensorflow", "tensorflow_datasets", "flax", "jax", "grain"}),
        ("import ditask_jax.data.prepared.tfds_builder", {"torch", "tensorflow", "flax", "jax"}),
        ("import ditask_jax.data.pipeline, ditask_jax.data.benchmarks", {"torch", "tensorflow", "flax"}),
    ],
)
def test_imports_stay_light(statement, unwanted):
    assert _modules_after(statement) & unwanted == set()


# Words of version 0.1 that a reader would have to learn, and what the field says instead.
OLD_WORDS = {
    r"numbers that train": "trainable parameters",
    r"\bthe originals\b": "reference implementations",
    r"\b(has|have) no reader\b|\(no reader\)": "unused",
    r"\bthe control\b": "the no-transform baseline",
    r"\brooms?\b (of the package|is for)": "package or module",
    r"\b(mend|mends|mended|mending)\b": "fix",
    r"\btold from\b": "inferred",
}


def test_words_are_those_of_the_field():
    """In code, comments, messages, help and pages; the change log may say what a thing was called."""
    root = PACKAGE.parent
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    texts = [
        root / name for name in listed if pathlib.Path(name).suffix in (".py", ".md", ".sh", ".ipynb", ".html", ".css")
    ]
    texts = [path for path in texts if path.name != "CHANGELOG.md" and path != pathlib.Path(__file__).resolve()]
    assert len(texts) > 300
    found = []
    for path in texts:
        content = path.read_text(encoding="utf-8")
        for words, better in OLD_WORDS.items():
            for match in re.finditer(words, content, re.IGNORECASE):
                line = content.count("\n", 0, match.start()) + 1
                found.append(f"{path.relative_to(root).as_posix()}, line {line}: '{match[0]}': write '{better}'")
    assert found == []


def test_one_class_of_a_name():
    """Two classes of one name, which an import tells apart, a reader does not."""
    public = collections.Counter(
        node.name
        for path in FILES
        for node in tree(path).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in ("Adapter", "Frozen", "build_method")
    )
    assert all(count == 1 for count in public.values()), public


def report() -> str:
    """What this file counts: files and lines of every folder, and what each part of the package imports."""
    sizes = sorted(lines(path) for path in FILES)
    short, usual = sum(size < 60 for size in sizes), sum(80 <= size <= 250 for size in sizes)
    rows = [
        f"{len(FILES)} files (at most {MOST_FILES}), {sum(sizes)} lines",
        f"median {sizes[len(sizes) // 2]} lines, most {sizes[-1]}; {short} of fewer than 60, {usual} of 80 to 250",
        "",
        "| folder | files | lines |",
        "|---|---|---|",
    ]
    rows += [f"| {name} | {len(paths)} | {sum(map(lines, paths))} |" for name, paths in sorted(folders().items())]
    rows += ["", "| part | imports |", "|---|---|"]
    imported = collections.defaultdict(set)
    for path in FILES:
        imported[part(path)] |= parts_imported(path).keys() - {part(path)}
    rows += [f"| {name} | {' '.join(sorted(others)) or '-'} |" for name, others in sorted(imported.items())]
    return "\n".join(rows)


if __name__ == "__main__":
    print(report())
