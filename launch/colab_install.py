"""Installs what the notebooks need on Colab, and leaves alone what is there and fits.

Colab's JAX comes with the CUDA plugins for its driver, and its NumPy is loaded before the first cell runs. Replacing
either breaks the GPU or asks for a restart, so packages that meet pyproject.toml are pinned to what they are, and only
the others are installed.

python launch/colab_install.py --dry-run    says what it would do
"""

import pathlib
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata

from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Writing StableHLO programs, and panels in the notebooks.
EXTRAS = ("program",)
# Packages that must stay together with JAX, or that Colab has loaded already.
PINNED = ("jax", "jaxlib", "numpy", "scipy")


def installed_version(name: str) -> str | None:
    """The version of a package that is here; None where it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(project: dict) -> list[Requirement]:
    """What pyproject.toml asks for at run time, and the extras that the notebooks use."""
    texts = [*project["dependencies"], *(t for extra in EXTRAS for t in project["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


def decide(
    wanted: Iterable[Requirement], installed: Callable[[str], str | None]
) -> tuple[list[str], list[str], list[str]]:
    """What to install, what to pin, and what is there but too old (or too new) and has to be replaced."""
    missing, replaced, fits = [], [], {}
    for requirement in wanted:
        version = installed(requirement.name)
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            fits[requirement.name] = version
            continue
        missing.append(str(requirement))
        if version is not None:
            replaced.append(f"{requirement.name} {version}")
    pins = [f"{name}=={version}" for name in PINNED if (version := installed(name)) is not None]
    old = {text.partition(" ")[0] for text in replaced}
    # A JAX that does not fit takes its library and, on a GPU, its plugins with it.
    if "jax" in old:
        old |= {"jaxlib"}
        cuda = installed("jax-cuda12-plugin") is not None
        missing = [t.replace("jax", "jax[cuda12]", 1) if cuda and Requirement(t).name == "jax" else t for t in missing]
    return missing, [pin for pin in pins if pin.partition("==")[0] not in old], replaced


def main(arguments: list[str]) -> int:
    """Installs what is missing; returns pip's exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    missing, pins, replaced = decide(requirements(project), installed_version)
    print(f"kept: {' '.join(pins) or 'nothing'}")
    print(f"to install: {' '.join(missing) or 'nothing'}")
    code = 0
    if missing and "--dry-run" not in arguments:
        with tempfile.TemporaryDirectory() as folder:
            constraints = pathlib.Path(folder) / "constraints.txt"
            constraints.write_text("\n".join(pins), encoding="utf-8")
            command = [sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints), *missing]
            code = subprocess.run(command, check=False).returncode
    if replaced:
        print(f"replaced: {', '.join(replaced)}; restart the runtime (Runtime > Restart), then run all cells again")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
