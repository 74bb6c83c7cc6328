"""Every command, link and file that a page names is there, and takes the options that it is given."""

import importlib
import re

import pytest

from ditask_jax import cli
from ditask_jax.config import flatten, load_config
from ditask_jax.config_fields import all_fields
from tests.docs.pages import GENERATED, PAGES, ROOT, commands

COMMANDS = commands()
OURS = sorted({command.program for command in COMMANDS if command.program.startswith("ditask_jax")})
# Words that stand for something of the reader's own.
PLACEHOLDERS = {"FIELD", "METHOD", "my_config.py", "FILE"}


def test_there_are_commands_to_check():
    pages = {command.page for command in COMMANDS}
    assert pages >= {
        "README.md",
        "CONTRIBUTING.md",
        "tutorial.md",
        "extending.md",
        "weights.md",
        "data.md",
        "predict.md",
    }
    assert len(OURS) >= 12


def help_of(program: str, capsys) -> str:
    """What `--help` prints, from the parser itself."""
    module, *rest = program.split()
    found = importlib.import_module(module)
    found = importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found
    with pytest.raises(SystemExit) as left:
        found.main([*rest, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("program", OURS)
def test_options_of_our_commands_exist(program, capsys):
    text = help_of(program, capsys)
    known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    for command in COMMANDS:
        if command.program == program:
            given = [word.partition("=")[0] for word in command.arguments if word.startswith("--")]
            unknown = [name for name in given if name not in known and not name.startswith("--config.")]
            assert unknown == [], f"{command}: {unknown}"


def configured():
    """Commands that name a configuration, whoever passes it on, and overrides."""
    chosen = {}
    for command in COMMANDS:
        overrides = tuple(word for word in command.arguments if word.startswith("--config."))
        sources = [
            word.partition("=")[2] for word in command.arguments if re.match(r"--(config|diff|reference-config)=", word)
        ]
        sources = [source for source in sources if source and source not in PLACEHOLDERS]
        if not sources and overrides and not any(name in " ".join(overrides) for name in PLACEHOLDERS):
            sources = ["configs/base.py"]
        extended = any("DITASK_PLUGINS" in variable for variable in command.variables)
        for source in sources:
            chosen.setdefault((source, overrides, extended), command)
    return [(command, source, overrides) for (source, overrides, _), command in chosen.items()]


@pytest.mark.parametrize(("command", "source", "overrides"), configured(), ids=str)
def test_configurations_of_commands_load(command, source, overrides, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(source, overrides, check="base.py" not in source)
    known = flatten(config)
    for override in overrides:
        field = override.removeprefix("--config.").partition("=")[0]
        assert field in known or any(name.startswith(f"{field}.") for name in known), str(command)


def test_exit_codes_and_fields_that_pages_name_exist():
    known = set(all_fields())
    groups = {name.partition(".")[0] for name in known if name.count(".") == 1}
    wrong = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)?)=", text))
        named |= {n for n in re.findall(r"`([a-z_]+\.[a-z_]+)(?:=[^`]*)?`", text) if n.partition(".")[0] in groups}
        # Options that a sample of the page declares, what a file of the reader's own adds, and names of files.
        own = set(re.findall(r"^    (\w+): .* = option\(", text, re.MULTILINE))
        strange = [name for name in sorted(named - known) if name.rpartition(".")[2] not in own]
        wrong += [f"{page.name}: {name}" for name in strange if not name.endswith((".py", ".json"))]
    assert wrong == []
    assert cli.PREEMPTED == 75


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    if page.name not in GENERATED:
        files = re.findall(
            r"`((?:configs|launch|tests|benchmarks|ditask_jax|docs)/[\w./-]+\.(?:py|sh|ipynb|yaml|sbatch))", text
        )
        files += re.findall(r"(?<![\w/-])(requirements[\w-]*\.txt)", text)
        missing += [name for name in files if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.program.startswith("ditask_jax")], ids=str)
def test_scripts_modules_and_tests_of_commands_exist(command):
    words = [word.partition("::")[0] for word in command.arguments if word.startswith(("tests/", "benchmarks/"))]
    assert [word for word in words if not (ROOT / word).exists()] == []
    if command.program in ("venv", "pip", "pytest", "jupyter"):
        return
    path = ROOT / command.program
    if not path.exists():
        module = ROOT / command.program.replace(".", "/")
        path = module / "__main__.py" if module.is_dir() else module.with_name(f"{module.name}.py")
    assert path.is_file(), str(command)
    if path.suffix == ".py":
        text = path.read_text(encoding="utf-8")
        options = [word.partition("=")[0] for word in command.arguments if word.startswith("--")]
        assert [name for name in options if f'"{name}"' not in text] == []


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_into_pages_meet_a_heading():
    wrong = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", text):
            other = page if not target else page.parent / target
            if other.suffix == ".md" and anchor not in anchors(other.read_text(encoding="utf-8")):
                wrong.append(f"{page.name}: {target}#{anchor}")
    assert wrong == []
