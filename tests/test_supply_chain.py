"""What comes in from outside: pinned packages, no network, no code from data."""

import ast
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import ditask_jax
from ditask_jax.config import load_config, to_json
from ditask_jax.errors import ConfigError, DitaskError
from ditask_jax.preflight.preflight_checks import REQUIREMENTS
from ditask_jax.training.run_folder import RunDir

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = pathlib.Path(ditask_jax.__file__).resolve().parent
LOCKS = {
    "requirements.txt": None,
    "requirements-dev.txt": "dev",
    "requirements-cuda12.txt": "cuda12",
    "requirements-cuda13.txt": "cuda13",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Imports every module of the package, in a process in which whatever asks for the network raises.
_OFFLINE = """
import sys

asked = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        asked.append((event, arguments[1:]))
        raise OSError(f"the network was asked for: {event}")

sys.addaudithook(watch)

import importlib, json, pkgutil
import ditask_jax

names = [module.name for module in pkgutil.walk_packages(ditask_jax.__path__, "ditask_jax.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
for name in ditask_jax.__all__:
    getattr(ditask_jax, name)
unwanted = sorted({"torch", "tensorflow", "timm", "transformers", "wandb", "huggingface_hub"} & set(sys.modules))
print(json.dumps({"modules": len(names), "asked": asked, "unwanted": unwanted}))
"""


def test_importing_everything_opens_no_connection_and_loads_no_other_framework():
    done = subprocess.run([sys.executable, "-c", _OFFLINE], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["modules"] > 100
    assert (found["asked"], found["unwanted"]) == ([], [])


def pins(name: str) -> dict[str, list[tuple[str, str, int]]]:
    """Package -> (version, marker, number of hashes) of a lock file."""
    found: dict[str, list] = {}
    for line in (ROOT / name).read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[.*\])?==(\S+)(?: ; (.*?))?(?: \\)?$", line):
            found.setdefault(match[1].lower(), []).append([match[2], match[3] or "", 0])
            current = found[match[1].lower()][-1]
        elif line.strip().startswith("--hash=sha256:"):
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}(?: \\)?", line.strip()), line
            current[2] += 1
        else:
            assert not line.strip() or line.lstrip().startswith("#"), f"{name}: {line}"
    return {package: [tuple(entry) for entry in entries] for package, entries in found.items()}


def wanted(extra: str | None) -> set[str]:
    """Packages that pyproject.toml names."""
    texts = PROJECT["dependencies"] + (PROJECT["optional-dependencies"][extra] if extra else [])
    return {re.match(r"[A-Za-z0-9._-]+", text)[0].lower() for text in texts}


@pytest.mark.parametrize(("name", "extra"), LOCKS.items())
def test_locks_pin_everything_by_hash(name, extra):
    found = pins(name)
    assert len(found) > 50
    assert [package for package, entries in found.items() if not all(hashes for *_, hashes in entries)] == []
    assert wanted(extra) <= set(found)
    jax = {marker: version for version, marker, _ in found["jax"]}
    assert len(jax) == 2, "one for Python 3.11, one for those after it"
    if extra in ("cuda12", "cuda13"):
        for part in ("plugin", "pjrt"):
            plugin = {marker: version for version, marker, _ in found[f"jax-{extra}-{part}"]}
            assert plugin == jax, "a plugin of another version than JAX does not load"
        assert any(package.startswith("nvidia-nccl-cu") for package in found)


@pytest.mark.parametrize("name", [name for name in LOCKS if name != "requirements.txt"])
def test_an_environment_grows_from_one_lock_into_another(name):
    base, other = pins("requirements.txt"), pins(name)
    assert {package: entries for package, entries in base.items() if other.get(package) != entries} == {}


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_package_index(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"index-url|find-links|file://|https?://", text)
    assert "bash launch/lock.sh" in text.splitlines()[1]


def test_the_preflight_knows_the_versions_of_the_project():
    ranges = {}
    for text in PROJECT["dependencies"]:
        name, low, below = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<([\d.]+))?", text).groups()
        ranges[name] = (low, below)
    ranges["jaxlib"] = ranges["jax"]
    assert {name: ranges[name] for name in REQUIREMENTS} == dict(REQUIREMENTS)
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


# The one place where code is made from text: the loader of configuration files that a user names.
_RUNS_CODE = {"config.py": {"exec", "compile"}}
_CODE = {"config.py": {"exec", "compile"}, "conversion/pickles.py": {"pickle"}}
_CODE = {"exec", "eval", "compile", "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def test_no_other_module_can_run_code_from_a_file():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names.add(node.func.id)
            elif isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert not node.value.value, f"{path}: allow_pickle"
        if names & _CODE:
            found[path.relative_to(PACKAGE).as_posix()] = names & _CODE
    assert found == _RUNS_CODE


@pytest.fixture
def hostile(tmp_path):
    """A run's folder whose every file of Python tells when it is run."""
    marker = tmp_path / "was run"
    code = f"open({str(marker)!r}, 'w').close()\ndef get_config(variant=None):\n    return None\n"
    run = tmp_path / "run"
    for name in ("config.py", "configs/base.py", "configs/smoke.py", "checkpoints/3/config.py", "sitecustomize.py"):
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return run, marker


def test_the_configuration_of_a_run_is_data(hostile):
    run, marker = hostile
    config = load_config("configs/smoke.py")
    (run / "config.json").write_text(to_json(config))
    assert to_json(RunDir(run).load_config()) == to_json(config)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    ["def get_config(): pass", '{"!!python/object/apply:os.system": ["x"]}', "[]", ""],
)
def test_a_run_of_anything_but_data_is_refused(hostile, content):
    run, marker = hostile
    (run / "config.json").write_text(content)
    with pytest.raises(DitaskError):
        RunDir(run).load_config()
    assert not marker.exists()


def test_a_folder_is_no_configuration_file(hostile):
    run, marker = hostile
    with pytest.raises(ConfigError):
        load_config(str(run))
    assert not marker.exists()
