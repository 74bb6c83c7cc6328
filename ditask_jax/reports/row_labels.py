"""Short names of rows: the method, and the options in which rows of one method differ."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

# Shown wherever rows of one method differ in them; other fields only where rows would have the same name.
_TELLING = ("method.", "backbone.name", "optimizer.surgery")


def row_labels(
    rows: Sequence[tuple[str, Mapping[str, Any]]], defaults: Mapping[str, Any] | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Names rows so that no two are alike.

    An option stays out of the name of a row where it is the same in all rows of its method, or has the value that most
    of them have; where none is in the majority among them, the one that most rows of the table have, or the default.

    Args:
      rows: per row the name of its method and its configuration, fields by dotted name. No two may be equal.
      defaults: the default of every field.

    Returns:
      Per row its name, and the fields in which it differs from other rows of its method but that its name leaves out.

    >>> base = {"method.name": "lora", "method.shared_rank": 4, "optimizer.learning_rate": 0.1}
    >>> [name for name, _ in row_labels([("lora", base), ("lora", base | {"method.shared_rank": 8})])]
    ['lora shared_rank=4', 'lora shared_rank=8']
    >>> [name for name, _ in row_labels([("lora", base), ("full", {"method.name": "full"})])]
    ['lora', 'full']
    """
    everything = [fields for _, fields in rows]
    elsewhere = {name: repr(value) for name, value in (defaults or {}).items()}
    for name in dict.fromkeys(name for fields in everything for name in fields):
        elsewhere[name] = _usual(everything, name) or elsewhere.get(name)
    methods: dict[str, list[int]] = {}
    for position, (method, _) in enumerate(rows):
        methods.setdefault(method, []).append(position)
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for method, positions in methods.items():
        named = _labels_of_one_method(method, [rows[position][1] for position in positions], elsewhere)
        found |= dict(zip(positions, named, strict=True))
    return [found[position] for position in range(len(rows))]


def _labels_of_one_method(
    method: str, rows: Sequence[Mapping[str, Any]], elsewhere: Mapping[str, str | None]
) -> list[tuple[str, dict[str, Any]]]:
    names = dict.fromkeys(name for fields in rows for name in fields)
    varied = [name for name in names if len({repr(fields.get(name)) for fields in rows}) > 1]
    usual = {name: _usual(rows, name) or elsewhere.get(name) for name in varied}
    unusual = [{name: fields.get(name) for name in varied if repr(fields.get(name)) != usual[name]} for fields in rows]
    shown = [name for name in varied if name.startswith(_TELLING)]
    spare = [name for name in varied if name not in shown]
    while True:
        labels = [" ".join([method, *_options(fields, shown)]) for fields in unusual]
        clashing = [fields for fields, label in zip(rows, labels, strict=True) if labels.count(label) > 1]
        helpful = [name for name in spare if len({repr(fields.get(name)) for fields in clashing}) > 1]
        if not clashing or not helpful:
            break
        shown.append(helpful[0])
        spare.remove(helpful[0])
    hidden = [{name: value for name, value in fields.items() if name not in shown} for fields in unusual]
    return list(zip(labels, hidden, strict=True))


def _usual(rows: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """The value that more than half of the rows have, as text."""
    value, count = collections.Counter(repr(fields.get(name)) for fields in rows).most_common(1)[0]
    return value if 2 * count > len(rows) else None


def _options(fields: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    """Texts `name=value`; what is the same for shared and task streams is said once."""
    found = {_short(name): text(fields[name]) for name in shown if name in fields}
    for kind in ("cells", "rank", "scale", "layers"):
        pair = (f"shared_{kind}", f"task_{kind}")
        if all(name in found for name in pair) and found[pair[0]] == found[pair[1]]:
            found = {kind if name == pair[0] else name: value for name, value in found.items() if name != pair[1]}
    return [f"{name}={value}" for name, value in found.items()]


def _short(name: str) -> str:
    *groups, last = name.split(".")
    return groups[-1] if groups and last == "name" else last


def text(value: Any) -> str:
    """A value of a field in few characters.

    >>> text((16, 16, 32, 32)), text(0.1), text(()), text(True)
    ('16,16,32,32', '0.1', 'none', 'yes')
    """
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
