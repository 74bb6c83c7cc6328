"""Writes the tables of options in docs/methods.md, as the methods declare them.

python -m docs.build_options            writes the page
python -m docs.build_options --check    says whether it is what the methods declare
"""

import pathlib
import re
import sys

from ditask_jax.config_fields import choices
from ditask_jax.options import options_of

PAGE = pathlib.Path(__file__).resolve().parent / "methods.md"
_BEGIN, _END = "<!-- options of {}: python -m docs.build_options -->", "<!-- end of options -->"


def table(name: str) -> str:
    """The table of a method's options."""
    rows = ["| option | default | meaning | values |", "|---|---|---|---|"]
    for option in options_of(choices("method")[name]).values():
        words = option.help[:1].lower() + option.help[1:].removesuffix(".")
        rows.append(f"| `{option.name}` | `{option.text(option.default)}` | {words} | {option.expected} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with its tables brought up to date."""
    for name, cls in choices("method").items():
        begin = _BEGIN.format(name)
        if begin not in text and options_of(cls):
            raise SystemExit(f"docs/methods.md: no place for the options of '{name}': {begin}")
        text = re.sub(
            rf"{re.escape(begin)}\n.*?{re.escape(_END)}",
            lambda _, name=name, begin=begin: f"{begin}\n\n{table(name)}\n\n{_END}",
            text,
            flags=re.DOTALL,
        )
    return text


def main(arguments: list[str]) -> int:
    text = PAGE.read_text(encoding="utf-8")
    if arguments == ["--check"]:
        print(
            "docs/methods.md is current" if page(text) == text else "docs/methods.md: run python -m docs.build_options"
        )
        return int(page(text) != text)
    PAGE.write_text(page(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
