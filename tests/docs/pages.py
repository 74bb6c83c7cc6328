"""What the pages say: their Python samples and their commands, taken from the text."""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
# Made from docstrings, whose samples are doctests.
GENERATED = ("reference.md",)


class Sample(NamedTuple):
    """A Python block: its page, its number on it from 0, its text, and the line above it."""

    page: str
    number: int
    text: str
    above: str

    def __str__(self) -> str:
        return f"{self.page}:{self.number}"


class Command(NamedTuple):
    """One command: its page, variables set in front of it, what is run, and its arguments."""

    page: str
    variables: tuple[str, ...]
    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {self.program} {' '.join(self.arguments)}"


def samples() -> list[Sample]:
    """Every Python block of the pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for number, match in enumerate(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)):
            above = text[: match.start()].rstrip().rpartition("\n")[2]
            found.append(Sample(page.name, number, match[1], above))
    return found


def commands() -> list[Command]:
    """Every `python -m`, `ditask-jax`, `bash`, `sbatch` and `pytest` line of the pages, wherever it stands."""
    found = {}
    for page in PAGES:
        if page.name in GENERATED:
            continue
        text = page.read_text(encoding="utf-8")
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        blocks = "\n".join(block for language, block in fenced if language != "python").replace("\\\n", " ")
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
        for line in (*blocks.splitlines(), *inline):
            command = _command(page.name, line)
            if command is not None:
                found.setdefault(command)
    return list(found)


def _command(page: str, line: str) -> Command | None:
    try:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    except ValueError:  # an apostrophe of a text
        return None
    variables = []
    while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):
        variables.append(words.pop(0))
    if words and words[0] == "taskset":
        words = words[3:]
    if words[:1] == ["python3"] or words[:1] == [".venv/bin/python"]:
        words[0] = "python"
    if words[:1] == ["ditask-jax"] and len(words) > 1 and words[1].isalpha() and words[1].islower():
        words[:2] = ["python", "-m", f"ditask_jax.{words[1]}"]
    if words[:2] == ["python", "-m"] and len(words) > 2:
        program, words = words[2], words[3:]
        if program == "ditask_jax.data" and words:
            program, words = f"{program} {words[0]}", words[1:]
        return Command(page, tuple(variables), program, tuple(words))
    if words[:2] == ["python", "-c"]:
        return None
    if len(words) > 1 and words[0] in ("bash", "sbatch", "python"):
        at = next((k for k, word in enumerate(words[1:], 1) if not word.startswith("-")), None)
        return None if at is None else Command(page, tuple(variables), words[at], tuple(words[at + 1 :]))
    if words[:1] == ["pytest"]:
        return Command(page, tuple(variables), "pytest", tuple(words[1:]))
    return None
