"""Writes the tables of options in docs/methods.md and of rates in docs/rates.md, as the methods declare them.

python -m docs.build_options            writes the pages
python -m docs.build_options --check    says whether they are what the methods declare
"""

import pathlib
import re
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


def rates_table(setting: str) -> str:
    """The factors of every method in one setting, and where they come from."""
    rows = ["| method | adapters | pretrained | trains beside adapters | found |", "|---|---:|---:|---|---|"]
    for name, cls in choices("method").items():
        tuned = cls.tuned_for(setting)
        rates = [f"{tuned.rates.get(group, 1.0):g}" for group in ("adapters", "pretrained")]
        beside = "published set" if tuned.unfrozen is None else ", ".join(tuned.unfrozen) or "nothing"
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
