"""Command lines with one thing wrong in the configuration, and the field that the answer must name.

python -m tests.crash.wrong_configs --count=500
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import random
import sys
import tempfile
from collections.abc import Iterator

from ditask_jax import cli, train
from ditask_jax.config import flatten, load_config
from ditask_jax.config_fields import all_fields, choices
from ditask_jax.options import Option, options_of

CONFIG = "configs/smoke.py"
_LETTERS = "abcdefghijklmnopqrstuvwxyz_"


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of a command, and what the first line of its answer must contain."""

    arguments: tuple[str, ...]
    field: str


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """So many different wrong configurations, drawn from every kind of mistake in turn."""
    dice = random.Random(seed)
    kinds = [
        _misspelt,
        _wrong_number,
        _wrong_integer,
        _wrong_name,
        _wrong_type,
        _wrong_lookup,
        _wrong_shape,
        _misplaced,
    ]
    seen: set[tuple[str, ...]] = set()
    turn = 0
    while len(seen) < count:
        case = kinds[turn % len(kinds)](dice)
        turn += 1
        if case.arguments not in seen:
            seen.add(case.arguments)
            yield case


def _fields() -> dict:
    return flatten(load_config(CONFIG))


@functools.cache
def _declared() -> dict[str, list[tuple[str, Option]]]:
    """By what a field holds ("name", "bool", "int", "float"), the fields that are declared, and how."""
    found: dict[str, list[tuple[str, Option]]] = {"name": [], "bool": [], "int": [], "float": []}
    for field, option in sorted(all_fields().items()):
        known = option.rule is not None and option.rule.known
        kind = "name" if known else option.kind.__name__
        if kind in found:
            found[kind].append((field, option))
    return found


def _set(field: str, value: object) -> Case:
    """One field set; an option of a method comes with a method that has it."""
    section, _, name = field.partition(".")
    owners = [n for n, cls in choices(section).items() if name in options_of(cls)] if section == "method" else []
    if not owners or "ditask" in owners:
        return Case((f"--config.{field}={value}",), field)
    return Case((f"--config.{field}={value}", f"--config.method.name={owners[0]}"), field)


def _misspelt(dice: random.Random) -> Case:
    """One letter of a name dropped, doubled, swapped or replaced."""
    fields = _fields()
    while True:
        name = dice.choice(sorted(fields))
        *groups, own = name.split(".")
        place = dice.randrange(len(own))
        wrong = dice.choice(
            [
                own[:place] + own[place + 1 :],
                own[:place] + own[place] + own[place:],
                own[:place] + dice.choice(_LETTERS) + own[place + 1 :],
                own[: place - 1] + own[place : place + 1] + own[place - 1 : place] + own[place + 1 :],
                own.upper(),
                own + "s",
            ]
        )
        path = ".".join([*groups, wrong])
        is_group = any(known.startswith(path + ".") for known in fields)
        if wrong and path not in fields and not is_group and wrong.strip():
            return Case((f"--config.{path}=1",), path)


def _wrong_number(dice: random.Random) -> Case:
    """Outside the range, or no number."""
    name, option = dice.choice(_declared()["float"])
    good = lambda value: option.rule is None or option.rule.holds(value)
    pool = [-1.0, -1e-3, 0.0, 1.0, 1.5, 2.0, 181.0, 1e9, -1e300, dice.uniform(-9, -1), -dice.random()]
    values = [repr(value) for value in pool if not good(value)]
    values += ["nan", "inf", "-inf", "abc", "1,2", "0.1.2", "--", "1e", "true", "[]", "{}", f"x{dice.randrange(99)}"]
    values += [] if option.optional else ["none"]
    return _set(name, dice.choice(values))


def _wrong_integer(dice: random.Random) -> Case:
    name, option = dice.choice(_declared()["int"])
    lowest = next(number for number in range(100) if option.rule.holds(number))
    values = [
        lowest - 1,
        -dice.randint(2, 99),
        2**31,
        10**30,
        1.5,
        dice.uniform(1, 9),
        "nan",
        "inf",
        "abc",
        "1,2",
        "true",
    ]
    values += ["", "[]", "0x", "1e-3", f"q{dice.randrange(99)}"] + ([] if option.optional else ["none"])
    return _set(name, dice.choice(values))


def _wrong_name(dice: random.Random) -> Case:
    """A name that is none of the few that a field knows."""
    name, option = dice.choice(_declared()["name"])
    known = option.rule.known
    right = dice.choice(known)
    values = [right[:-1], right + "x", right.upper(), "".join(dice.choices(_LETTERS, k=6)), "1", "1.5", "a,b"]
    # `None` is read like `none`, whatever its case.
    wrong = [value for value in values if value not in known and not (value == "NONE" and "none" in known)]
    return _set(name, dice.choice(wrong))


def _wrong_type(dice: random.Random) -> Case:
    """Something other than true or false."""
    name, option = dice.choice(_declared()["bool"])
    values = ["maybe", "2", "-1", "0.5", "tru", "[]", "1,0", f"b{dice.randrange(99)}"]
    return _set(name, dice.choice(values + ([] if option.optional else ["none"])))


def _wrong_lookup(dice: random.Random) -> Case:
    """Names that are looked up where they are used."""
    name, right = dice.choice(
        [
            ("tasks", "semseg+depth"),
            ("data.name", "scenes"),
            ("backbone.name", "swin_test"),
            ("head.name", "hrnet"),
            ("method.name", "ditask"),
        ]
    )
    place = dice.randrange(len(right))
    wrong = dice.choice(
        [
            right[:place] + dice.choice("qxz") + right[place + 1 :],
            right[:place] + dice.choice("qxz") + right[place:],
            "".join(dice.choices(_LETTERS[:-1], k=dice.randint(3, 9))) + "q",
        ]
    )
    return _set(name, wrong)


def _wrong_shape(dice: random.Random) -> Case:
    """Tuples of a wrong length or content, and sizes that cannot be."""
    number = dice.randint(1, 99)
    field, values = dice.choice(
        [
            (
                "image_size",
                ["0", "-32", "32,", "32,32,32", "abc", "1.5", "32,x", f"{-number}", "none", f"{70000 + number}"],
            ),
            ("optimizer.betas", ["0.9", "1,0.9", "0.9,1", "-0.1,0.9", "a,b", f"0.9,{number}", "0.9,0.9,0.9", "none"]),
            ("data.scale", ["0,1", "2,1", "-1,1", "x", "1,2,3", f"{number + 1},{number}", "none", "nan,1"]),
            ("optimizer.milestones", ["2,1", "-1", "a", "1,1", f"{number},{number}", "0,1", "nan"]),
            ("head.widths", ["0,1", "-1", "a", "1.5", f"-{number}", "4,4,4,x"]),
            ("backbone.taps", ["-1", "a", "1.5", f"-{number}"]),
            ("method.shared_layers", ["qkv,qkv", "1", f"qkv,{number}", "proj,proj"]),
            ("method.task_layers", ["fc1,fc1", "2", f"{number},fc1"]),
            ("method.unfrozen", ["norms,norms", "3", f"{number},norms"]),
            ("checkpoint.allow_changed", ["nothing", "total_step", f"seed{number}", "optimizer.lr", "1"]),
            ("optimizer.schedule_lag", ["2", "-1", "0.5", "x", f"{number + 1}"]),
            ("method.shared_cells", ["1", "0", "-4", "1.5", "a", f"-{number}", "4,1", "none"]),
            ("method.task_cells", ["1", "0", "-4", "1.5", "a", f"-{number}", "{}", "{'semseg': 1}", "none"]),
            ("method.shared_rank", ["0", "-1", "1.5", "x", f"-{number}"]),
            ("method.layers", ["qkv,qkv", "1", f"qkv,{number}"]),
            ("method.task_scale", ["x", "nan", "{}", f"x{number}"]),
            ("method.bottleneck", ["0", "-1", "x", f"-{number}"]),
        ]
    )
    return _set(field, dice.choice(values))


def _misplaced(dice: random.Random) -> Case:
    """A field of another group, a group in place of a field, a field in place of a group, no value."""
    fields = sorted(_fields())
    name = dice.choice([field for field in fields if "." in field])
    group, own = name.rsplit(".", 1)
    other = dice.choice([g for g in ("data", "backbone", "head", "method", "mesh", "checkpoint") if g != group])
    if f"{other}.{own}" not in fields and dice.random() < 0.5:
        return Case((f"--config.{other}.{own}=1",), f"{other}.{own}")
    alone = dice.choice([field for field in fields if "." not in field])
    return dice.choice(
        [
            Case((f"--config.{group}={dice.randrange(99)}",), group),
            Case((f"--config.{alone}.{own}=1",), f"{alone}.{own}"),
            Case((f"--config.{name}",), name),
        ]
    )


def answer(case: Case, workdir: str) -> tuple[int, str]:
    """Exit code and error text of the command, in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = cli.execute(train.main, [f"--config={CONFIG}", f"--workdir={workdir}", *case.arguments])
    return code, errors.getvalue()


def complaints(case: Case, workdir: str) -> list[str]:
    """What is wrong with the answer to a case: nothing, unless there is a bug."""
    try:
        code, text = answer(case, workdir)
    except Exception as error:
        return [f"{case.arguments}: traceback of {type(error).__name__}: {error}"]
    # Another method says what it drops of the file's options, which is no mistake.
    first = next((line for line in text.splitlines() if " drops its options: " not in line), "")
    found = []
    if code != cli.USER_ERROR:
        found.append(f"exit code {code}")
    if "Traceback" in text:
        found.append("a traceback")
    if case.field not in first:
        found.append(f"the first line does not name the field: {first!r}")
    return [f"{' '.join(case.arguments)}: {what}" for what in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [line for case in cases(args.count, args.seed) for line in complaints(case, f"{folder}/run")]
    for line in found[:50]:
        print(line)
    print(f"{args.count} wrong configurations, {len(found)} complaints")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
