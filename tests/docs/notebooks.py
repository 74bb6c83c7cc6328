"""Runs a notebook top to bottom without Jupyter: its code cells in one namespace, shell lines as a shell would.

python -m tests.docs.notebooks launch/colab.ipynb    in the checkout, whose folder it uses
"""

import json
import os
import pathlib
import re
import subprocess
import sys

# Lines that install or change the folder: the environment is made beforehand.
INSTALLS = re.compile(r"%(pip|cd)\b|!(pip|git|python launch/colab_install\.py|python -m pip)\b")


def code_cells(path: str | pathlib.Path) -> list[str]:
    """The text of every code cell, in order."""
    cells = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def as_python(cell: str) -> str:
    """A cell as plain Python: `!command {name}` becomes a call, what installs becomes `pass`.

    >>> as_python("if here:\\n    !pip install x\\n!ls {folder}")
    "if here:\\n    pass\\n_shell(f'ls {folder}')"
    """
    lines = []
    for line in cell.splitlines():
        indent, text = re.fullmatch(r"(\s*)(.*)", line).groups()
        if INSTALLS.match(text):
            lines.append(f"{indent}pass")
        elif text.startswith("!"):
            lines.append(f"{indent}_shell(f{text[1:]!r})")
        else:
            lines.append(line)
    return "\n".join(lines)


def shell(command: str) -> None:
    """Runs a line as the notebook does, except that a failure ends the run."""
    # `python` is the interpreter that runs the notebook.
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(command, shell=True, check=True, env=os.environ | {"PATH": path})


def run(path: str | pathlib.Path) -> dict:
    """Executes every code cell; returns the names that they left."""
    names: dict = {"__name__": "__main__", "_shell": shell}
    for number, cell in enumerate(code_cells(path)):
        print(f"-- cell {number}", flush=True)
        exec(compile(as_python(cell), f"{pathlib.Path(path).name}, code cell {number}", "exec"), names)
    return names


if __name__ == "__main__":
    for given in sys.argv[1:]:
        run(given)
