"""Writes docs/reference.md: public names with signature and docstring, read from the source without importing it.

python -m docs.build_reference            writes the page
python -m docs.build_reference --check    says whether it is what the source gives
"""

import ast
import functools
import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
NAME = "ditask_jax"
# Packages whose `__all__` is public; what `ditask_jax` itself offers is described once, there.
PACKAGES = (
    "",
    "cpab",
    "adapters",
    "backbones",
    "heads",
    "tasks",
    "data",
    "prediction",
    "plugins",
    "weight_files",
    "factors",
)
TITLES = {"": "the usual names, `import ditask_jax as dj`"}
HEAD = """# Reference

Made from the docstrings by `python -m docs.build_reference`; do not edit by hand. Names not listed here may change
without notice.
"""

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _path(module: str) -> pathlib.Path:
    base = ROOT.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _literal(module: str, name: str):
    """The value of a top-level constant such as `__all__`; None where there is none, or it is computed."""
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            try:
                return ast.literal_eval(node.value)
            except ValueError:
                return None
    return None


def public_names(module: str) -> dict[str, str]:
    """By public name of a module, the module that is asked for it, which may hand it on from another."""
    lazy = _literal(module, "_PUBLIC")
    if lazy is not None:
        return lazy
    names = _literal(module, "__all__")
    if names is None:
        names = [
            node.name
            for node in _tree(module).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
    return dict.fromkeys(names, module)


def find(module: str, name: str) -> tuple[str, Definition]:
    """Where a name is defined, imports followed."""
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return module, node
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return module, node
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(NAME):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(node.module, alias.name)
    lazy = _literal(module, "_PUBLIC") or {}
    if name in lazy and lazy[name] != module:
        return find(lazy[name], name)
    raise LookupError(f"{module} does not define {name}")


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _fields(module: str, node: ast.ClassDef) -> dict[str, str]:
    """Fields of a dataclass with types and defaults, those of base classes first, as its constructor takes them."""
    found = {}
    for base in node.bases:
        try:
            where, parent = find(module, ast.unparse(base))
        except LookupError:
            continue
        if isinstance(parent, ast.ClassDef) and _is_dataclass(parent):
            found |= _fields(where, parent)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and not ast.unparse(item.annotation).startswith("ClassVar"):
            field = f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}"
            if item.value is not None:
                value = ast.unparse(item.value)
                declared = _declared(item.value)
                value = ast.unparse(declared.args[0]) if declared is not None else value
                field += " = ..." if "field(" in value or "option(" in value else f" = {value}"
            found[ast.unparse(item.target)] = field
    return found


def _declared(value: ast.expr | None) -> ast.Call | None:
    """The call of `option` by which a field is declared."""
    found = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "option"
    return value if found else None


def _options(module: str, node: ast.ClassDef) -> list[str]:
    """What the options of a class are, a line each."""
    lines = []
    for item in node.body:
        value = item.value if isinstance(item, ast.AnnAssign) else None
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "unfrozen_option":
            lines.append(f"  {ast.unparse(item.target)}: groups of backbone weights that train too.")
        if (declared := _declared(value)) is not None:
            words = declared.args[1]
            if isinstance(words, ast.Name):  # several methods have the option
                words = find(module, words.id)[1].value
            lines.append(f"  {ast.unparse(item.target)}: {words.value}")
    return ["Options:", *lines] if lines else []


def _call(name: str, parameters: list[str], returns: str = "") -> str:
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){returns}"])


def signature(module: str, name: str, node: Definition) -> str:
    """How a name is called, or what it holds."""
    if isinstance(node, ast.ClassDef):
        if _is_dataclass(node):
            return _call(name, list(_fields(module, node).values()))
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return _call(name, _parameters(item)[1:])
        return f"class {name}" + (f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else "")
    if isinstance(node, ast.FunctionDef):
        return _call(name, _parameters(node), f" -> {ast.unparse(node.returns)}" if node.returns else "")
    text = ast.unparse(node.value) if node.value is not None else ""
    return f"{name} = {text}" if len(text) < 80 else name


def _parameters(function: ast.FunctionDef) -> list[str]:
    """Parameters as texts, each on its own."""
    arguments, texts = function.args, []
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        texts.append(_parameter(argument, default))
    if arguments.vararg:
        texts.append(f"*{_parameter(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        texts.append("*")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        texts.append(_parameter(argument, default))
    if arguments.kwarg:
        texts.append(f"**{_parameter(arguments.kwarg, None)}")
    return texts


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg + (f": {ast.unparse(argument.annotation)}" if argument.annotation else "")
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if argument.annotation else f"{text}={ast.unparse(default)}"


def _docstring(module: str, node: Definition) -> str:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
    body = _tree(module).body
    after = body[body.index(node) + 1] if body.index(node) + 1 < len(body) else None
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
        return inspect.cleandoc(after.value.value)
    return ""


def entry(module: str, name: str, level: str = "###") -> list[str]:
    """The lines of one name: heading, signature, docstring, and the methods of a class that have docstrings."""
    where, node = find(module, name)
    lines = [f"{level} `{name}`", "", "```text", signature(where, name, node)]
    if text := _docstring(where, node):
        lines += ["", text]
    if isinstance(node, ast.ClassDef) and (options := _options(where, node)):
        lines += ["", *options]
    lines += ["```", ""]
    for item in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and ast.get_docstring(item):
            decorators = {ast.unparse(decorator) for decorator in item.decorator_list}
            is_property = any(name.endswith("property") for name in decorators)
            drop = 0 if is_property or "staticmethod" in decorators else 1
            returns = f" -> {ast.unparse(item.returns)}" if item.returns else ""
            shown = f"{name}.{item.name}"
            head = (
                f"{shown}: {returns.removeprefix(' -> ')}"
                if is_property
                else _call(shown, _parameters(item)[drop:], returns)
            )
            lines += ["```text", head, "", _docstring(where, item), "```", ""]
    return lines


def page() -> str:
    """The whole page."""
    lines, described = [HEAD], {}
    for package in PACKAGES:
        module = f"{NAME}.{package}".rstrip(".")
        lines += [f"## `{module}`", ""]
        about = inspect.cleandoc(ast.get_docstring(_tree(module), clean=False) or "").splitlines()
        lines += [TITLES[package] if package in TITLES else re.sub(r"\s+", " ", about[0]), ""]
        names, again = public_names(module), []
        for name in sorted(names, key=lambda name: (name.lower(), name)):
            if name.startswith("__"):
                continue
            where, node = find(names[name], name)
            if (where, node) in described:
                again.append(name)
                continue
            described[where, node] = name
            lines += entry(names[name], name)
        if again:
            lines += ["Described above: " + ", ".join(f"`{name}`" for name in again) + ".", ""]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Writes or checks the page."""
    text = page()
    if "--check" in arguments:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("docs/reference.md is current" if same else "docs/reference.md is not: python -m docs.build_reference")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {text.count('### ')} names")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
