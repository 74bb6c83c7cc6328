"""`python -m tests.mutation`: changes the code a little and counts how often the tests notice."""

import ast
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ditask_jax import cli
from ditask_jax.errors import ConfigError
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.packages import PACKAGES, ROOT, files, package

_NOTICED, _MISSED, _NONE = 1, 0, 5  # exit codes of pytest: a test failed, all passed, there was none


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a mutant: "noticed", "too slow" (noticed too: it hangs) or "missed"."""

    file: str
    mutant: str
    what: str
    seconds: float


def main(argv: list[str]) -> int:
    """Draws mutants, runs the tests of their packages against each, prints the score."""
    parser = cli.Parser(
        "tests.mutation",
        "Changes operators, numbers and conditions one at a time and runs the package's tests against each of them.\n"
        "The score is the share of changes that make a test fail. Some changes make no difference to any result;\n"
        "those it cannot tell from changes that the tests miss, so read the list of what was missed.",
        config=None,
    )
    parser.add_option("packages", nargs="*", metavar="PACKAGE", help=f"{' '.join(PACKAGES)} (default: all)")
    parser.add_option("--sample", type=int, default=20, metavar="N", help="changes per package (default 20; 0: all)")
    parser.add_option("--seed", type=int, default=0, metavar="N", help="which ones are drawn")
    parser.add_option("--file", metavar="PART", help="only files whose path contains this")
    note = "tests to run in place of the package's, joined by commas: quicker, and says what these alone notice"
    parser.add_option("--tests", metavar="PATHS", help=note)
    parser.add_option("--timeout", type=int, default=600, metavar="S", help="seconds per change (default 600)")
    parser.add_option("--out", metavar="FILE", help="write what became of each change as JSON")
    parser.add_option("--dry", action="store_true", help="only list the changes")
    parser.add_option("--list", action="store_true", help="print files and tests, as launch/coverage.sh reads them")
    args = parser.parse(argv)

    names = args.packages or list(PACKAGES)
    if args.list:
        for name in names:
            print(f"{','.join(package(name).files)}\t{' '.join(package(name).tests)}")
        return cli.OK
    outcomes: list[Outcome] = []
    for name in names:
        drawn, total = draw(name, args.sample, args.seed, args.file)
        print(f"{name}: {len(drawn)} of {total} changes", flush=True)
        if args.dry:
            for path, mutant in drawn:
                print(f"  {_shown(path)}, {mutant}")
            continue
        tests = package(name).tests if args.tests is None else tuple(args.tests.split(","))
        check_unchanged(tests, drawn[0][0], args.timeout)
        here = [attempt(tests, path, mutant, args.timeout) for path, mutant in drawn]
        outcomes += here
        print(f"{name}: {summary(here)}", flush=True)
    if args.out and not args.dry:
        Path(args.out).write_text(
            json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=2) + "\n", encoding="utf-8"
        )
    return cli.OK


def draw(name: str, sample: int, seed: int, part: str | None) -> tuple[list[tuple[Path, Mutant]], int]:
    """Mutants of a package, drawn evenly from all of its files together; 0 for all."""
    found = [(path, mutant) for path in files(name) if part is None or part in str(path) for mutant in _of(path)]
    if not found:
        raise ConfigError(f"mutation: {name}: nothing to change in a file with '{part}' in its path")
    chosen = found if sample == 0 else random.Random(seed).sample(found, min(sample, len(found)))
    return sorted(chosen, key=lambda entry: (str(entry[0]), entry[1].line)), len(found)


def _of(path: Path) -> list[Mutant]:
    return list(mutants(path.read_text(encoding="utf-8")))


def check_unchanged(tests: Sequence[str], path: Path, timeout: int) -> None:
    """Makes sure that the tests pass with a copy in the place of a file: otherwise every change would count as noticed.

    Raises:
      ConfigError: they fail, or take too long.
    """
    code, output = _run_tests(tests, path, ast.unparse(ast.parse(path.read_text(encoding="utf-8"))), timeout)
    if code != _MISSED:
        last = (output.strip().splitlines() or [f"not done in {timeout} s"])[-1]
        raise ConfigError(f"mutation: {' '.join(tests)} do not pass as they are ({last}); fix them first")


def attempt(tests: Sequence[str], path: Path, mutant: Mutant, timeout: int) -> Outcome:
    """Runs tests against a mutant and prints what became of it."""
    begin = time.perf_counter()
    code, output = _run_tests(tests, path, mutant.source, timeout)
    if code == _NONE:
        raise ConfigError(f"mutation: {' '.join(tests)}: no test was run: {output.strip()[-200:]}")
    what = "too slow" if code is None else "missed" if code == _MISSED else "noticed"
    outcome = Outcome(_shown(path), str(mutant), what, round(time.perf_counter() - begin, 1))
    print(f"  {outcome.what:<8} {outcome.file}, {outcome.mutant}  ({outcome.seconds:.0f} s)", flush=True)
    return outcome


def _run_tests(tests: Sequence[str], path: Path, source: str, timeout: int) -> tuple[int | None, str]:
    """pytest's exit code (None: out of time) and output, with the first failure ending the run.

    Args:
      tests: files and folders.
      path: the file whose place the source takes.
      source: of the program to try.
      timeout: in seconds.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "tests.mutation.plugin", "-m", "not slow"]
    with tempfile.TemporaryDirectory() as folder:
        # A package's __init__ must keep its name: by it the plugin sees that there are modules below.
        file = Path(folder) / path.name
        file.write_text(source)
        variables = {
            "MUTANT_MODULE": _module(path),
            "MUTANT_FILE": str(file),
            # pytest finds the doctests of the file itself and gets the module of the other one; that is the point.
            "PY_IGNORE_IMPORTMISMATCH": "1",
        }
        try:
            done = subprocess.run(
                [*command, *tests],
                env=os.environ | variables,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, ""
    return done.returncode, done.stdout


def summary(outcomes: list[Outcome]) -> str:
    """The score, and how it comes about.

    >>> summary([Outcome("a.py", "", "noticed", 1.0), Outcome("a.py", "", "missed", 1.0)])
    'noticed 1 of 2 changes: 50.0 %'
    """
    noticed = sum(outcome.what != "missed" for outcome in outcomes)
    return f"noticed {noticed} of {len(outcomes)} changes: {100 * noticed / max(len(outcomes), 1):.1f} %"


def _shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


if __name__ == "__main__":
    cli.run(main)
