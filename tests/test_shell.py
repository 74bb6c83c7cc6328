"""What a shell leaves behind: streams, encodings, variables of Matplotlib, JAX and XLA; none may cost a result."""

import ast
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import types
import warnings

import pytest

import ditask_jax
from ditask_jax import cli, shell
from ditask_jax.config import from_json, to_json
from ditask_jax.errors import ConfigError, OutputWarning, optional
from ditask_jax.files import atomic_write_json, atomic_write_text, user_path
from ditask_jax.plots import sheet

CHECKOUT = pathlib.Path(__file__).parents[1]
PACKAGE = pathlib.Path(ditask_jax.__file__).parent
NO_UTF8 = "caf\udce9"  # how Python gives the name b"caf\xe9"

COMMAND = """
import sys
from ditask_jax import cli

def main(argv):
    open(argv[0], "wb").close()
    print("übung ↑ caf\\udce9", flush=True)
    print("übung", file=sys.stderr, flush=True)
    for _ in range(3):
        print("x" * 100_000, flush=True)
    with open(argv[0], "w", encoding="utf-8") as file:
        file.write("whole")

cli.run(main, unheard="lasting" in sys.argv)
"""


def shell_run(tmp_path, redirection, *, lasting=False, **variables):
    """Runs the command above in a shell; returns its code, what stands in its file, and what came through."""
    script, file = tmp_path / "command.py", tmp_path / "result"
    script.write_text(COMMAND, encoding="utf-8")
    line = f"{sys.executable} {script} {file} {'lasting' if lasting else ''} {redirection}"
    environment = dict(os.environ, PYTHONPATH=str(CHECKOUT), **variables)
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=environment, timeout=60, check=False)
    return done.returncode, file.read_text(encoding="utf-8"), done.stdout, done.stderr


@pytest.mark.parametrize(("chosen", "threads"), [(None, "1"), ("2", "2")])
def test_a_command_keeps_opencv_to_one_thread(chosen, threads):
    """Unless the user chose otherwise; in the processes that it starts as well."""
    code = """
import subprocess, sys
import cv2
from ditask_jax import cli

def main(argv):
    print(cv2.getNumThreads(), flush=True)
    subprocess.run([sys.executable, "-c", "import cv2; print(cv2.getNumThreads())"], check=True)

cli.run(main)
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_FOR_THREADS_NUM"}
    environment |= {} if chosen is None else {"OPENCV_FOR_THREADS_NUM": chosen}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [threads, threads], done.stderr


def test_the_last_one_to_leave_puts_back_the_threads_of_blas():
    with contextlib.ExitStack() as second:
        with shell.one_blas_thread() as worked:
            assert shell._blas["inside"] == (1 if worked else 0)
            second.enter_context(shell.one_blas_thread())
        assert shell._blas["inside"] == (1 if worked else 0)
    assert shell._blas["inside"] == 0


@pytest.mark.parametrize(
    "redirection", [">/dev/full 2>/dev/full", ">&- 2>&- <&-", "2>&1 | (read -n1 x); exit ${PIPESTATUS[0]}"]
)
def test_a_training_outlives_every_line_that_cannot_be_printed(tmp_path, redirection):
    code, result, _, _ = shell_run(tmp_path, redirection, lasting=True)
    assert (code, result) == (0, "whole")


def test_another_command_ends_once_and_says_why(tmp_path):
    code, _, _, errors = shell_run(tmp_path, ">/dev/full")
    line = errors.decode().splitlines()[-1]
    assert (code, line.partition(";")[0]) == (2, "file system: standard output: No space left on device")
    code, _, _, errors = shell_run(tmp_path, "| (read -n1 x); exit ${PIPESTATUS[0]}")
    assert (code, errors.decode()) == (cli.BROKEN_PIPE, "übung\n")
    code, result, _, _ = shell_run(tmp_path, ">&- 2>&-")
    assert (code, result) == (0, "whole")


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path):
    code, _, output, errors = shell_run(tmp_path, "", PYTHONIOENCODING="ascii")
    assert (code, output.splitlines()[0], errors) == (0, rb"\xfcbung \u2191 caf\udce9", b"\\xfcbung\n")


def test_names_are_read_as_utf8_in_a_locale_of_ascii(tmp_path):
    """A path in a file is UTF-8: in the encoding of such a locale it could not be opened."""
    script = tmp_path / "command.py"
    (tmp_path / "Möbel").mkdir()
    text = f"""
import os, sys
from ditask_jax import cli
cli.run(lambda argv: print(sys.getfilesystemencoding(), ascii(argv), os.path.isdir({str(tmp_path / "Möbel")!r})))
"""
    script.write_text(text, encoding="utf-8")
    legacy = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(CHECKOUT)}
    environment = {**os.environ, **legacy}
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(
        [sys.executable, str(script), "ü"], capture_output=True, env=environment, timeout=60, check=True
    )
    assert done.stdout.decode() == "utf-8 ['\\xfc'] True\n"


def test_streams_are_mended_in_place(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.execute(lambda argv: print("é ↑"), []) == 0
    assert output.buffer.getvalue() == b"\xe9 \\u2191\n"
    print("nowhere", file=sys.stderr)
    sys.stderr.close()


def text_files_without_encoding(path):
    """Lines of a file that read or write text in whatever encoding the locale has."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        place = 1 if isinstance(node.func, ast.Name) or owner in ("os", "io") else 0
        mode = named.get("mode", node.args[place] if len(node.args) > place else None)
        text = not (isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" in mode.value)
        opens = name == "fdopen" or (name == "open" and owner not in ("os", "Image", "self"))
        decodes = any(isinstance(named.get(key), ast.Constant) for key in ("text", "universal_newlines"))
        if (name in ("read_text", "write_text") or (opens and text) or decodes) and "encoding" not in named:
            found.append(f"{path.relative_to(PACKAGE.parent)}, line {node.lineno}")
    return found


def test_every_text_file_is_utf8_by_name():
    assert [line for path in sorted(PACKAGE.rglob("*.py")) for line in text_files_without_encoding(path)] == []


def test_the_search_for_encodings_finds_them(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "x")
    file = tmp_path / "some.py"
    lines = ["p.read_text()", "open(p)", "p.open('w')", "os.fdopen(d)", "run(c, text=True)"]
    sound = [
        "p.read_text(encoding='utf-8')",
        "open(p, 'rb')",
        "p.open('wb')",
        "os.open(p, 1)",
        "run(c)",
        "Image.open(p)",
    ]
    file.write_text("\n".join(lines + sound), encoding="utf-8")
    assert len(text_files_without_encoding(file)) == len(lines)


def test_names_that_are_no_utf8_come_back_from_files(tmp_path):
    config = from_json('{"data": {"root": "caf\\udce9"}}')
    path = atomic_write_text(tmp_path / "config.json", to_json(config))
    assert from_json(path.read_text(encoding="utf-8")).data.root == NO_UTF8
    path = atomic_write_json(tmp_path / "x.json", {"é": NO_UTF8})
    assert json.loads(path.read_bytes().decode("utf-8")) == {"é": NO_UTF8}


def test_matplotlib_is_loaded_whatever_a_notebook_left(tmp_path):
    """The first import ends with each of these: recorded with Matplotlib 3.10."""
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe\xff")
    code = """
import os, sys
from ditask_jax.plots import sheet
for backend, settings in (("foo", None), ("module://no_such.backend", None), ("TkAgg", None), ("foo", sys.argv[1])):
    os.environ["MPLBACKEND"] = backend
    os.environ.pop("MATPLOTLIBRC", None)
    if settings:
        os.environ["MATPLOTLIBRC"] = settings
    for name in [name for name in sys.modules if name.split(".")[0] in ("matplotlib", "mpl_toolkits")]:
        del sys.modules[name]
    content = sheet.to_bytes(sheet.new_figure(1, 1))
    print(content[:4], os.environ["MPLBACKEND"])
    sys.modules.pop("matplotlib.pyplot", None)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "matplotlibrc")]
    done = subprocess.run(command, capture_output=True, cwd=CHECKOUT, encoding="utf-8", timeout=120, check=False)
    # The variable is left as it was for whoever else draws in this process.
    names = ("foo", "module://no_such.backend", "TkAgg", "foo")
    assert done.stdout.splitlines() == [rf"b'\x89PNG' {name}" for name in names], done.stderr


def test_a_matplotlib_that_cannot_be_loaded_is_one_line(monkeypatch):
    # Whatever was loaded before comes back afterwards.
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sheet.importlib, "import_module", _no_module)
    with pytest.raises(ConfigError, match=r"^matplotlib: cannot be loaded \(ImportError: matplotlib: libfreetype"):
        sheet.load_matplotlib()


def _no_module(name):
    raise ImportError(f"{name}: libfreetype.so.6: cannot open shared object file")


def test_what_is_optional_warns_and_what_is_not_a_failure_passes(monkeypatch):
    said = r"^figure x was not made: ZeroDivisionError: .*; DITASK_TRACEBACK=1"
    with pytest.warns(OutputWarning, match=said), optional("figure x"):
        1 // 0  # noqa: B018
    with warnings.catch_warnings(), optional("figure x"):
        warnings.simplefilter("error")
    with pytest.raises(KeyboardInterrupt), optional("figure x"):
        raise KeyboardInterrupt
    monkeypatch.setenv("DITASK_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError), optional("figure x"):
        1 // 0  # noqa: B018


def test_no_home_and_no_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "foo")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(shell.os.path, "expanduser", lambda path: path)  # a user whom the machine does not know
    monkeypatch.setattr(shell.tempfile, "gettempdir", lambda: str(tmp_path))
    shell.settle_environment()
    assert (os.environ["MPLBACKEND"], os.environ["TMPDIR"]) == ("agg", str(tmp_path))
    assert not pathlib.Path(os.environ["HOME"]).exists()


def test_a_temporary_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    shell.settle_environment()
    assert os.environ["TMPDIR"] == str(tmp_path)
    monkeypatch.setattr(shell.os, "access", lambda folder, mode: False)
    monkeypatch.setattr(shell.tempfile, "gettempdir", lambda: "/elsewhere")
    shell.settle_environment()
    assert os.environ["TMPDIR"] == "/elsewhere"

    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(shell.tempfile, "gettempdir", nowhere)
    shell.settle_environment()
    assert os.environ["TMPDIR"] == "/elsewhere"


@pytest.mark.parametrize("home", ["", os.path.join(os.devnull, "home")])
def test_a_path_at_home_is_named_where_there_is_none(home, monkeypatch):
    """The second is what `settle_environment` gives to libraries that insist on one."""
    from ditask_jax.factors import default_cache_dir

    monkeypatch.setenv("HOME", home)
    with pytest.raises(ConfigError, match=r"^command line: --workdir: '~/x': there is no home folder here; set HOME"):
        user_path("~/x", "command line: --workdir")
    for name in ("XDG_CACHE_HOME", "DITASK_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    if not home:
        assert default_cache_dir() is None  # not in the root of the file system


def test_factors_are_not_cached_without_a_home(monkeypatch):
    from ditask_jax import factors

    for name in ("HOME", "XDG_CACHE_HOME", "DITASK_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "home", _no_home)
    assert factors.default_cache_dir() is None


def _no_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"JAX_NUM_CPU_DEVICES": "abc"}, "JAX_NUM_CPU_DEVICES: got 'abc', expected a number from 1 on"),
        ({"JAX_NUM_CPU_DEVICES": "0"}, "JAX_NUM_CPU_DEVICES: got '0'"),
        ({"JAX_NUM_CPU_DEVICES": "-3"}, "JAX_NUM_CPU_DEVICES: got '-3'"),
        ({"JAX_NUM_CPU_DEVICES": ""}, "JAX_NUM_CPU_DEVICES: got ''"),
        ({"JAX_PLATFORMS": "CPU"}, "JAX_PLATFORMS: got 'CPU'. Did you mean 'cpu'?"),
        ({"JAX_PLATFORMS": "cuda, cpu"}, "JAX_PLATFORMS: got 'cuda, cpu'. Did you mean 'cpu'?"),
    ],
)
def test_variables_that_jax_would_not_survive(variables, line):
    with pytest.raises(ConfigError) as caught:
        shell.check_environment(variables)
    assert str(caught.value).startswith(f"environment: {line}")


@pytest.mark.parametrize(
    "variables", [{}, {"JAX_NUM_CPU_DEVICES": "-1"}, {"JAX_PLATFORMS": ""}, {"JAX_PLATFORMS": "cuda,cpu"}]
)
def test_variables_that_are_sound_pass(variables):
    assert shell.check_environment(variables) is None


def test_flags_that_xla_ends_the_process_for_are_found_before(monkeypatch):
    assert shell._refused_flags("--xla_no_such_flag=1") == "Unknown flag in XLA_FLAGS: --xla_no_such_flag=1"
    assert shell._refused_flags("--xla_force_host_platform_device_count=2") == ""
    monkeypatch.delitem(sys.modules, "jax")
    with pytest.raises(ConfigError, match=r"^environment: XLA_FLAGS: got '--xla_no_such_flag=1', which XLA refuses"):
        shell.check_environment({"XLA_FLAGS": "--xla_no_such_flag=1"})


def raised_in(module, function, error):
    """An error with a frame of that module and function in its traceback."""
    code = f"def {function}():\n    raise error\n" if function != "<module>" else "raise error\n"
    scope = {"__name__": module, "error": error}
    try:
        exec(code, scope)
        scope[function]()
    except Exception as caught:
        return caught
    return None


@pytest.mark.parametrize(
    ("module", "function", "error", "variables", "line"),
    [
        ("jax", "<module>", ValueError("invalid truth value 'maybe' for environment 'JAX_DEBUG_NANS'"),
         {"JAX_DEBUG_NANS": "maybe"}, "environment: JAX_DEBUG_NANS: got 'maybe'; JAX cannot be loaded with it"),
        ("jax", "<module>", ValueError("invalid literal for int() with base 10: 'abc'"),
         {"JAX_SOME_NUMBER": "abc"}, "environment: JAX_SOME_NUMBER: got 'abc'; JAX cannot be loaded with it"),
        ("jax", "<module>", ValueError("invalid truth value '' for environment 'JAX_ENABLE_X64'"),
         {"JAX_ENABLE_X64": "", "JAX_PLATFORMS": "cpu"}, "environment: JAX_ENABLE_X64: got ''; JAX cannot be loaded"),
        ("jax", "<module>", ValueError("invalid truth value 'abc' for environment 'JAX_ENABLE_X64'"),
         {"JAX_NUM_PROCESSES": "4", "JAX_ENABLE_X64": "abc"}, "environment: JAX_ENABLE_X64: got 'abc'; JAX cannot"),
        ("jax", "<module>", ValueError("invalid literal for int() with base 10: ''"),
         {"JAX_SOME_NUMBER": "", "JAX_DEBUG_NANS": "1"}, "environment: JAX_SOME_NUMBER: got ''; JAX cannot be loaded"),
        ("jax", "<module>", ValueError('Invalid value "foo" for JAX flag jax_cpu_collectives_implementation'),
         {"JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "foo"},
         "environment: JAX_CPU_COLLECTIVES_IMPLEMENTATION: got 'foo'; JAX cannot be loaded"),
        ("jax._src.xla_bridge", "backends", AssertionError(),
         {"JAX_DEBUG_NANS": "no", "JAX_PLATFORMS": "cuda"}, "environment: JAX_PLATFORMS: got 'cuda'; JAX cannot start"),
        ("jax._src.xla_bridge", "backends", AssertionError(),
         {"JAX_PLATFORMS": "cuda"}, "environment: JAX_PLATFORMS: got 'cuda'; JAX cannot start that here (no device)."),
        ("jax._src.xla_bridge", "backends", RuntimeError("Unable to initialize backend 'cpuu'"),
         {"JAX_PLATFORMS": "cpuu"}, "environment: JAX_PLATFORMS: got 'cpuu'; JAX cannot start that here"),
        ("jax._src.xla_bridge", "backends", RuntimeError("CUDA_ERROR_NO_DEVICE (set JAX_PLATFORMS=cpu to skip)"),
         {}, "devices: JAX could not start (CUDA_ERROR_NO_DEVICE"),
        ("jax._src.api", "f", RuntimeError("Disallowed host-to-device transfer"),
         {"JAX_TRANSFER_GUARD_DEVICE_TO_HOST": "disallow"}, "environment: JAX_TRANSFER_GUARD_DEVICE_TO_HOST: got"),
        ("some", "f", UnicodeEncodeError("utf-8", f"/runs/{NO_UTF8}", 9, 10, "surrogates not allowed"),
         {}, "file system: '/runs/caf\\udce9' is no UTF-8"),
        ("some", "f", TypeError("__init__(): incompatible constructor arguments. The following argument types are "
         "supported:\n 1. Reader(path: str, options: str = '')\n\nInvoked with: '/d/caf\\udce9/x'; kwargs: n=1"),
         {}, "file system: '/d/caf\\udce9/x' is no UTF-8"),
    ],
)  # fmt: skip
def test_errors_of_jax_are_laid_to_the_variable(module, function, error, variables, line):
    caught = raised_in(module, function, error)
    assert str(shell.explain(caught, variables)).startswith(line)
    if module == "jax":
        wrapped = ConfigError("plugins: x.py: ValueError")
        wrapped.__cause__ = caught
        assert str(shell.explain(wrapped, variables)).startswith(line)


def test_bugs_are_no_fault_of_the_shell():
    variables = {"JAX_PLATFORMS": "cpu", "JAX_TRANSFER_GUARD": "disallow"}
    assert shell.explain(raised_in("ditask_jax.training.trainer", "f", ValueError("cpu")), variables) is None
    assert shell.explain(raised_in("jax", "<module>", ImportError("no module named jaxlib")), {}) is None
    assert shell.explain(TypeError("incompatible function arguments. Invoked with: 'x', 'y'"), variables) is None


def test_an_error_of_jax_is_code_2_and_one_line(capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")

    def main(argv):
        scope = {"__name__": "jax._src.xla_bridge"}
        exec("def backends():\n    raise AssertionError", scope)
        scope["backends"]()

    assert cli.execute(main, []) == 2
    assert capsys.readouterr().err.startswith("environment: JAX_PLATFORMS: got 'cuda'; JAX cannot start that here")


def test_a_figure_that_fails_costs_no_scores(monkeypatch, tmp_path):
    """The scores are in their file and told before anything is drawn."""
    from ditask_jax.training import trainer as module
    from ditask_jax.training.run_folder import RunDir

    told = []
    run = RunDir(tmp_path)

    class Stub(module.Trainer):
        def __init__(self):
            self.step, self.tasks = 3, ()
            self.config = types.SimpleNamespace(
                data=types.SimpleNamespace(name="scenes"), image_size=32, eval_resolution="network"
            )
            self.experiment = types.SimpleNamespace(
                plan=types.SimpleNamespace(
                    method="m", trainable_backbone=1, trainable_total=2, total=3, groups={"a": 1}
                )
            )

        def draw(self, path, examples=None):
            assert told == ["table", f"scores: {run.evaluation}"]
            assert run.evaluation.is_file()
            raise OSError("no font")

    monkeypatch.setattr(module, "score_table", lambda evaluation, tasks: "table")
    evaluation = types.SimpleNamespace(to_json=lambda: {"scores": {}})
    with pytest.warns(OutputWarning, match=r"^figure .*evaluation.png was not made: OSError: no font"):
        text = Stub().report(run, evaluation, say=told.append)
    assert text == f"table\nscores: {run.evaluation}"
