"""Writes the tables of options in docs/methods.md and of rates in docs/rates.md, as the methods declare them.

python -m docs.build_options            writes the page
python -m docs.build_options --check    says whether it is what the methods declare
"""

import pathlib
import sys

from ditask_jax.adapters.method_registry import SETTINGS
from ditask_jax.config_fields import choices
from ditask_jax.options import options_of

PAGE = pathlib.Path(__file__).resolve().parent / "methods.md"
RATES_PAGE = PAGE.with_name("rates.md")
_RATES_BEGIN, _RATES_END = "<!-- rates: python -m docs.build_options -->", "<!-- end of rates -->"
_BEGIN, _END = "<!-- options of {}: python -m docs.build_options -->", "<!-- end of options -->"


def table(name: str) -> str:
    """The table of a method's options."""
    rows = ["| option | default | meaning | values |", "|---|---|---|---|"]
    for option in options_of(choices("method")[name]).values():
        words = option.help[:1].lower() + option.help[1:].removesuffix(".")
        beside = beside if "unfrozen" in options_of(cls) else ""
        rows.append(f"| `{name}` | {' | '.join(rates)} | {beside} | {tuned.source} |")
    return f"### {setting}\n\n{SETTINGS[setting]}.\n\n" + "\n".join(rows)


def rates_page(text: str) -> str:
    """The page of rates with its tables brought up to date."""
    (before, rest) = text.split(_RATES_BEGIN, 1)
    tables = "\n\n".join(map(rates_table, SETTINGS))
    return f"{before}{_RATES_BEGIN}\n\n{tables}\n\n{_RATES_END}{rest.split(_RATES_END, 1)[1]}"


def main(arguments: list[str]) -> int:
    stale = False
    for path, make in ((PAGE, page), (RATES_PAGE, rates_page)):
        text = path.read_text(encoding="utf-8")
        current = make(text) == text
        if arguments == ["--check"]:
            print(f"docs/{path.name} is current" if current else f"docs/{path.name}: run python -m docs.build_options")
            stale |= not current
        elif not current:
            path.write_text(make(text), encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
