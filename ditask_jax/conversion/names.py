"""Rules from names of other code bases to ours and back, and the names around a backbone in multi-task checkpoints."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

# Two-way name maps: one rule says what a tensor is called there and here, and how its numbers lie in both.
#
# A template holds fields in braces: `{stage}` and other words stand for a number, `{task}` for a word, `{stage+1}` for
# the number plus one. A field that both sides share carries over, so each rule translates in both directions.


Array = np.ndarray
_FIELD = re.compile(r"\{(\w+?)([+-]\d)?\}")
_WORDS = {"task": r"[A-Za-z]\w{0,63}"}
_NUMBER = r"0|[1-9]\d{0,3}"


@dataclasses.dataclass(frozen=True)
class Turn:
    """A change of layout and its inverse; both move numbers and change none."""

    to_ours: Callable[[Array], Array]
    to_theirs: Callable[[Array], Array]


def _same(array: Array) -> Array:
    return array


SAME = Turn(_same, _same)
# `[out, in]` to `[in, out]`.
TRANSPOSE = Turn(lambda w: w.T, lambda w: w.T)
# `[out, in, h, w]` to `[h, w, in, out]`.
CONVOLUTION = Turn(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))
# A 1x1 convolution `[out, in, 1, 1]` to a matrix `[in, out]`.
POINTWISE = Turn(lambda w: np.squeeze(w, (2, 3)).T, lambda w: w.T[:, :, None, None])
# Axes of length one in front, `[1, rows, C]` to `[rows, C]` and `[1, 1, C]` to `[C]`.
FIRST = Turn(lambda w: np.squeeze(w, 0), lambda w: w[None])
FIRST_TWO = Turn(lambda w: np.squeeze(w, (0, 1)), lambda w: w[None, None])


@dataclasses.dataclass(frozen=True)
class Rule:
    """One pair of names.

    Attributes:
      theirs, ours: templates.
      turn: how the array lies in both.
      parts: values of `{part}` in `theirs`, where several tensors make up one of ours: they are stacked along their
        first axis, in this order, before the turn.

    >>> rule = Rule("layers.{stage+1}.{part}.weight", "stages/{stage}/qkv/kernel", TRANSPOSE, ("query", "key", "value"))
    >>> rule.ours_of("layers.3.key.weight")
    ('stages/2/qkv/kernel', 1)
    >>> rule.theirs_of("stages/2/qkv/kernel")
    ['layers.3.query.weight', 'layers.3.key.weight', 'layers.3.value.weight']
    """

    theirs: str
    ours: str
    turn: Turn = SAME
    parts: tuple[str, ...] = ()

    @functools.cached_property
    def _their_pattern(self) -> re.Pattern:
        return _pattern(self.theirs, self.parts)

    @functools.cached_property
    def _our_pattern(self) -> re.Pattern:
        return _pattern(self.ours, ())

    def ours_of(self, name: str) -> tuple[str, int] | None:
        """Our path of a tensor of theirs, and which part of it that tensor is; None where the rule does not apply."""
        fields = _match(self._their_pattern, self.theirs, name)
        if fields is None:
            return None
        part = self.parts.index(fields.pop("part")) if self.parts else 0
        return _fill(self.ours, fields), part

    def theirs_of(self, path: str) -> list[str] | None:
        """Their names, one per part, of one of our paths; None where the rule does not apply."""
        fields = _match(self._our_pattern, self.ours, path)
        if fields is None:
            return None
        if not self.parts:
            return [_fill(self.theirs, fields)]
        return [_fill(self.theirs, {**fields, "part": part}) for part in self.parts]

    def join(self, arrays: Sequence[Array]) -> Array:
        """Our array from their tensors, in the order of `parts`."""
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return np.ascontiguousarray(self.turn.to_ours(whole))

    def split(self, array: Array) -> list[Array]:
        """Their tensors from our array; raises ValueError where it does not divide."""
        whole = self.turn.to_theirs(array)
        pieces = np.split(whole, len(self.parts)) if self.parts else [whole]
        return [np.ascontiguousarray(piece) for piece in pieces]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a table makes of foreign tensors.

    Attributes:
      arrays: under our paths.
      unknown: names that no rule knows.
      problems: what cannot be put together, one text each.
    """

    arrays: dict[str, Array]
    unknown: list[str]
    problems: list[str]


class Table:
    """Rules of one layout; the first that applies wins."""

    def __init__(self, rules: Iterable[Rule]):
        self.rules = tuple(rules)

    def ours_of(self, name: str) -> tuple[str, int, Rule] | None:
        """Our path, the part and the rule of a tensor of theirs."""
        for rule in self.rules:
            if (found := rule.ours_of(name)) is not None:
                return (*found, rule)
        return None

    def theirs_of(self, path: str) -> tuple[list[str], Rule] | None:
        """Their names and the rule of one of our paths."""
        for rule in self.rules:
            if (names := rule.theirs_of(path)) is not None:
                return names, rule
        return None

    def read(self, arrays: Mapping[str, Array]) -> Found:
        """Puts foreign tensors under our paths; each is used once or told as unknown."""
        gathered: dict[str, dict[int, tuple[str, Rule]]] = {}
        unknown, problems = [], []
        for name in arrays:
            found = self.ours_of(name)
            if found is None:
                unknown.append(name)
                continue
            path, part, rule = found
            taken = gathered.setdefault(path, {})
            if part in taken:
                problems.append(f"'{name}' and '{taken[part][0]}' are the same tensor of this model")
            else:
                taken[part] = (name, rule)
        ours = {}
        for path, taken in gathered.items():
            rule = next(iter(taken.values()))[1]
            wanted = range(max(len(rule.parts), 1))
            absent = [rule.parts[part] for part in wanted if part not in taken]
            if absent:
                problems.append(f"'{taken[min(taken)][0]}' has no counterpart for {' and '.join(absent)}")
                continue
            try:
                ours[path] = rule.join([arrays[taken[part][0]] for part in wanted])
            except (ValueError, IndexError) as error:
                names = " ".join(f"'{taken[part][0]}' {arrays[taken[part][0]].shape}" for part in wanted)
                problems.append(f"{names}: wrong rank or shapes ({error})")
        return Found(ours, unknown, problems)

    def write(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
        """Our arrays under their names, and the paths that have none there."""
        theirs, unknown = {}, []
        for path, array in arrays.items():
            found = self.theirs_of(path)
            if found is None:
                unknown.append(path)
                continue
            names, rule = found
            theirs |= dict(zip(names, rule.split(array), strict=True))
        return theirs, unknown


def norm(theirs: str, ours: str) -> list[Rule]:
    """Rules of a LayerNorm."""
    return [Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")]


def linear(theirs: str, ours: str, parts: tuple[str, ...] = ()) -> list[Rule]:
    """Rules of a dense layer."""
    return [
        Rule(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSE, parts),
        Rule(f"{theirs}.bias", f"{ours}/bias", SAME, parts),
    ]


def convolution(theirs: str, ours: str) -> list[Rule]:
    """Rules of a convolution."""
    return [Rule(f"{theirs}.weight", f"{ours}/kernel", CONVOLUTION), Rule(f"{theirs}.bias", f"{ours}/bias")]


def _pattern(template: str, parts: tuple[str, ...]) -> re.Pattern:
    out, start = [], 0
    for match in _FIELD.finditer(template):
        name = match[1]
        inside = "|".join(map(re.escape, parts)) if name == "part" else _WORDS.get(name, _NUMBER)
        out += [re.escape(template[start : match.start()]), f"(?P<{name}>{inside})"]
        start = match.end()
    return re.compile("".join([*out, re.escape(template[start:])]))


def _match(pattern: re.Pattern, template: str, text: str) -> dict[str, str | int] | None:
    match = pattern.fullmatch(text)
    if match is None:
        return None
    fields: dict[str, str | int] = {}
    for field in _FIELD.finditer(template):
        name, value = field[1], match[field[1]]
        if name == "part" or name in _WORDS:
            fields[name] = value
            continue
        number = int(value) - int(field[2] or 0)
        if number < 0:
            return None
        fields[name] = number
    return fields


def _fill(template: str, fields: Mapping[str, str | int]) -> str:
    def value(match: re.Match) -> str:
        found = fields[match[1]]
        return str(found + int(match[2])) if match[2] else str(found)

    return _FIELD.sub(value, template)


# Names around the backbone in DiTASK's and MTLoRA's training checkpoints: transforms, necks and decoders.


_HEAD = "decoders.decoders.{task}.last_layer"

DECODERS: tuple[Rule, ...] = (
    Rule("downsampler.{task}.downsample_{stage}.weight", "necks/{task}/convs/{stage}/kernel", POINTWISE),
    Rule(f"{_HEAD}.0.weight", "heads/{task}/widen/kernel", POINTWISE),
    Rule(f"{_HEAD}.0.bias", "heads/{task}/widen/bias"),
    Rule(f"{_HEAD}.1.weight", "heads/{task}/norm/scale"),
    Rule(f"{_HEAD}.1.bias", "heads/{task}/norm/bias"),
    Rule(f"{_HEAD}.1.running_mean", "heads/{task}/norm/mean"),
    Rule(f"{_HEAD}.1.running_var", "heads/{task}/norm/variance"),
    Rule(f"{_HEAD}.3.weight", "heads/{task}/classify/kernel", POINTWISE),
    Rule(f"{_HEAD}.3.bias", "heads/{task}/classify/bias"),
)


def thetas(block: str, our_block: str, linears: tuple[str, ...]) -> list[Rule]:
    """Rules of the transforms in a block's dense layers, shared and per task."""
    rules = []
    for name in linears:
        ours = f"{our_block}/{name.replace('.', '/')}/adapter"
        rules.append(Rule(f"{block}.{name}.lora_shared_A", f"{ours}/theta_shared", FIRST))
        rules.append(Rule(f"{block}.{name}.lora_tasks_A.{{task}}", f"{ours}/theta_{{task}}", FIRST))
    return rules


def low_rank(block: str, our_block: str, linears: tuple[str, ...]) -> list[Rule]:
    """Rules of MTLoRA's matrices in a block's dense layers. DiTASK's checkpoints call a theta what is a matrix here."""
    rules = []
    for name in linears:
        theirs, ours = f"{block}.{name}", f"{our_block}/{name.replace('.', '/')}/adapter"
        for letter in "AB":
            rules.append(Rule(f"{theirs}.lora_shared_{letter}", f"{ours}/{letter.lower()}_shared", TRANSPOSE))
            rules.append(Rule(f"{theirs}.lora_tasks_{letter}.{{task}}", f"{ours}/{letter.lower()}_{{task}}", TRANSPOSE))
        rules.append(Rule(f"{theirs}.lora_norm.weight", f"{ours}/norm_scale_shared"))
        rules.append(Rule(f"{theirs}.lora_norm.bias", f"{ours}/norm_bias_shared"))
    return rules
