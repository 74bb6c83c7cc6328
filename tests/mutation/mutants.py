"""Small changes to a program that ought to make a test fail."""

import ast
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator

_SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
      line: where.
      before, after: the changed expression.
      build: makes the whole changed module.
    """

    line: int
    before: str
    after: str
    build: Callable[[], str] = dataclasses.field(repr=False, compare=False)

    @property
    def source(self) -> str:
        """The whole changed module."""
        return self.build()

    def __str__(self) -> str:
        return f"line {self.line}: {self.before}  ->  {self.after}"


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines.

    Operators and comparisons are exchanged, numbers and truth values moved, conditions negated, minus signs dropped and
    results replaced by None. Texts (messages, docstrings), annotations, decorators and what stands inside a `raise` are
    left alone: a test that fails for another wording is worth nothing.

    >>> [(mutant.before, mutant.after) for mutant in mutants("x = 1 if a < b else y")]
    [('1', '2'), ('a < b', 'not a < b'), ('a < b', 'a <= b')]
    """
    tree = ast.parse(source)
    found = [change for node in _eligible(tree) for change in _changes(node)]
    for node, change in sorted(found, key=lambda entry: (entry[0].lineno, entry[0].col_offset)):
        after = change(copy.deepcopy(node))
        build = functools.partial(_changed, tree, node, change)
        yield Mutant(node.lineno, _short(ast.unparse(node)), _short(ast.unparse(after)), build)


def _changed(tree: ast.AST, node: ast.AST, change: Callable) -> str:
    changed = copy.deepcopy(tree)
    twin = _twin(tree, changed, node)
    replacement = change(twin)
    if replacement is not twin:
        _replace(changed, twin, replacement)
    return ast.unparse(ast.fix_missing_locations(changed))


def _eligible(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may change: not those of texts, annotations, decorators, errors and the main guard."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(
                child, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom
            ):
                continue
            if isinstance(child, ast.If) and "__name__" in ast.unparse(child.test):
                continue
            yield child
            yield from _eligible(child)


def _changes(node: ast.AST) -> Iterator[tuple]:
    """Pairs of a node and what makes another one of its copy."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _SWAPS:
        yield node, lambda twin: _with(twin, op=_SWAPS[type(twin.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
        yield node, lambda twin: _with(twin, ops=[_SWAPS[type(twin.ops[0])](), *twin.ops[1:]])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield node, lambda twin: twin.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, lambda twin: ast.Constant(not twin.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield node, lambda twin: ast.Constant(twin.value + 1)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield node.test, lambda twin: ast.UnaryOp(ast.Not(), twin)
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield node.value, lambda twin: ast.Constant(None)


def _with(node: ast.AST, **fields) -> ast.AST:
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def _twin(tree: ast.AST, copied: ast.AST, wanted: ast.AST) -> ast.AST:
    return next(b for a, b in zip(ast.walk(tree), ast.walk(copied), strict=True) if a is wanted)


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
                return
            if isinstance(value, list) and any(entry is old for entry in value):
                setattr(parent, field, [new if entry is old else entry for entry in value])
                return


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
