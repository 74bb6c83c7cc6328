"""Paths from outside, wherever they are given: home folders are expanded and URLs refused, before anything is made."""

import contextlib
import importlib
import pathlib
import re
import threading

import numpy as np
import pytest

from configs import base
from ditask_jax import cli
from ditask_jax.adapters.storage import load_adapter, read_description, save_adapter
from ditask_jax.config import flatten, load_config
from ditask_jax.config_fields import validate
from ditask_jax.config_sections import PATHS
from ditask_jax.conversion.exporting import export_weights, load_program
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.data import open_source
from ditask_jax.data.folder import FolderSource
from ditask_jax.data.prepared.prepared_source import PreparedSource
from ditask_jax.data.prepared.preparing import Wish, prepare
from ditask_jax.data.vtab import open_vtab, prepare_vtab
from ditask_jax.errors import CheckpointError, ConfigError
from ditask_jax.factors import default_cache_dir, factorize_all
from ditask_jax.files import LOCK_NAME, atomic_write_json, locked
from ditask_jax.plugins import load_plugins
from ditask_jax.prediction import Predictor
from ditask_jax.prediction.image_inputs import find_pictures
from ditask_jax.prediction.outputs import check_folder
from ditask_jax.preflight.preflight_checks import Setting, check_workdir
from ditask_jax.reports import find_runs
from ditask_jax.reports.drawing import draw_runs
from ditask_jax.reports.model_card import write_model_card
from ditask_jax.sweeps.loading import load_sweep
from ditask_jax.tasks import load_references
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.experiment import load_backbone, load_trained
from ditask_jax.training.metrics_log import read_metrics
from ditask_jax.training.restore import restore_run
from ditask_jax.training.run_folder import SCORES_LOCK_NAME, RunDir, read_launches
from ditask_jax.weight_files import read_weights, write_weights

CONFIG = str(pathlib.Path(base.__file__).with_name("smoke.py"))
COMMANDS = (
    *("train", "evaluate", "predict", "figures", "compare", "describe", "report", "sweep", "tune"),
    *("convert", "export", "pretrain", "preflight", "references"),
    *("data doctor", "data build", "data show"),
)
METAVARS = {"DIR", "FILE", "PATH", "RUN", "SOURCE", "OUT"}
# Python files with a variant behind them: `find_file` takes those apart first.
SOURCES = {"config", "diff", "sweep"}


def main_of(command):
    name, *rest = command.split()
    module = importlib.import_module(f"ditask_jax.{name}")
    main = (importlib.import_module(f"{module.__name__}.__main__") if hasattr(module, "__path__") else module).main
    return lambda argv: main([*rest, *argv])


class _Found(Exception):
    pass


def parser_of(command):
    """The parser that a command makes."""
    made = []

    def stop(self, argv=None):
        made.append(self)
        raise _Found

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(_Found):
        patch.setattr(cli.Parser, "parse", stop)
        main_of(command)([])
    return made[0]


PARSERS = {command: parser_of(command) for command in COMMANDS}
OPTIONS = [
    pytest.param(command, action, id=f"{command} {action.dest}")
    for command, parser in PARSERS.items()
    for action in parser._actions
    if action.metavar in METAVARS
]


def arguments(parser, chosen, value):
    """A command line with everything that must be there, and `value` for one option."""
    found = []
    for action in parser._actions:
        wanted = action is chosen or action in parser._required or not action.option_strings
        text = value if action is chosen else CONFIG if action.dest in SOURCES else "pascal"
        if wanted:
            found.append(f"{action.option_strings[0]}={text}" if action.option_strings else text)
    return found


def test_all_commands_are_walked_over():
    package = pathlib.Path(cli.__file__).parent
    files = [*package.glob("*.py"), *package.glob("*/__main__.py")]
    files = [path for path in files if "cli.run(main" in path.read_text(encoding="utf-8")]
    programs = {path.parent.name if path.stem == "__main__" else path.stem for path in files} - {"data"}
    assert programs == {command for command in COMMANDS if " " not in command}
    assert len(OPTIONS) > 30


@pytest.mark.parametrize(("command", "action"), OPTIONS)
def test_every_path_option(command, action, tmp_path, monkeypatch, capsys):
    parser = PARSERS[command]
    monkeypatch.chdir(tmp_path)
    for url in ("s3://bucket/x.py", "gs://bucket/x", "file:///x"):
        assert cli.execute(main_of(command), arguments(parser, action, url)) == cli.USER_ERROR
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert f"'{url}' is a URL, expected a local path" in captured.err
        assert captured.out == ""
        assert list(tmp_path.iterdir()) == []
    if action.dest not in SOURCES:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        parsed = getattr(parser.parse(arguments(parser, action, "~/x")), action.dest)
        assert parsed in (str(tmp_path / "home/x"), [str(tmp_path / "home/x")])


@pytest.mark.parametrize("name", PATHS)
def test_every_path_field_of_a_configuration(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [f"--config={CONFIG}", "--workdir=run", f"--config.{name}=hdfs://node/x"]
    assert cli.execute(main_of("train"), command) == cli.USER_ERROR
    assert f"config: {name}: 'hdfs://node/x' is a URL" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    config = load_config(CONFIG, [f"{name}=~/x"])
    validate(config)
    # As written: the home folder of another machine may be another one.
    assert flatten(config)[name] == "~/x"


@pytest.mark.parametrize("name", PATHS)
def test_a_path_field_keeps_its_blanks(name):
    assert flatten(load_config(CONFIG, [f"{name}=  a b "]))[name] == "  a b "
    assert flatten(load_config(CONFIG, [f"{name}= none "]))[name] is None


def test_a_list_of_plugins_is_cut_behind_its_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("json:file:/x/y.py", "FILE:/x/y.py:json", "~/a.py:hf://x/y.py"):
        with pytest.raises(ConfigError, match=r"^plugins \(DITASK_PLUGINS\): '.*' is a URL"):
            load_plugins(given)
    (tmp_path / "behind_a_module.py").write_text("VALUE = 4\n")
    assert load_plugins(f"json:{tmp_path}/behind_a_module.py")[1].VALUE == 4


def test_no_path_field_is_forgotten():
    fields = flatten(base.get_config())
    named = {n for n in fields if re.search(r"(root|weights|dir|path|folder|file)$", n)} - {"data.on_bad_file"}
    assert named == set(PATHS)


@pytest.mark.parametrize("variable", ["DITASK_CACHE_DIR", "DITASK_PLUGINS"])
def test_variables_of_the_environment(variable, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "s3://bucket/x.py")
    assert cli.execute(main_of("train"), [f"--config={CONFIG}", "--workdir=run"]) == cli.USER_ERROR
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert variable in line
    assert "'s3://bucket/x.py' is a URL" in line
    assert list(tmp_path.iterdir()) == []


def test_where_factors_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("DITASK_CACHE_DIR", raising=False)
    assert default_cache_dir() == tmp_path / ".cache/ditask_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/c")
    assert default_cache_dir() == tmp_path / "c/ditask_jax"
    monkeypatch.setenv("DITASK_CACHE_DIR", "~/d")
    assert default_cache_dir() == tmp_path / "d"
    (tmp_path / "plugin_at_home.py").write_text("VALUE = 3\n")
    assert [module.VALUE for module in load_plugins("~/plugin_at_home.py")] == [3]


CALLS = {
    "RunDir": RunDir,
    "Checkpointer": Checkpointer,
    "Predictor.from_adapter": Predictor.from_adapter,
    "Predictor.from_run": Predictor.from_run,
    "FolderSource": lambda path: FolderSource(path, "train", ("semseg",)),
    "PreparedSource": lambda path: PreparedSource(path, "train", ("semseg",)),
    "atomic_write_json": lambda path: atomic_write_json(path, 1),
    "check_folder": check_folder,
    "convert_weights": convert_weights,
    "draw_runs": lambda path: draw_runs([], path, None, (), ("png",)),
    "export_weights": lambda path: export_weights(path, None, "ditask"),
    "factorize_all": lambda path: factorize_all({"a": (np.eye(2, dtype=np.float32), 1)}, path),
    "find_pictures": find_pictures,
    "find_pictures, results": lambda path: find_pictures(".", path),
    "find_runs": lambda path: find_runs([path]),
    "load_adapter": lambda path: load_adapter(path, None),
    "load_backbone": lambda path: load_backbone(None, path),
    "load_config": load_config,
    "load_plugins": load_plugins,
    "load_program": load_program,
    "load_references": lambda path: load_references("pascal", path),
    "load_sweep": load_sweep,
    "load_trained": lambda path: load_trained(None, path),
    "locked": lambda path: locked(path, "x", "y", "z").__enter__(),
    "open_source": lambda path: open_source("folder", "train", ["semseg"], path),
    "open_source, nyud": lambda path: open_source("nyud", "train", ["semseg"], path),
    "open_vtab": lambda path: open_vtab(path, "train", "cifar100"),
    "prepare, root": lambda path: prepare(Wish("pascal"), path, pathlib.Path("out")),
    "prepare, out": lambda path: prepare(Wish("pascal"), pathlib.Path("in"), path),
    "prepare_vtab": lambda path: prepare_vtab("cifar100", path),
    "read_description": read_description,
    "read_metrics": read_metrics,
    "read_launches": read_launches,
    "read_weights": read_weights,
    "restore_run": restore_run,
    "save_adapter": lambda path: save_adapter(path, None),
    "write_model_card": write_model_card,
    "write_weights": lambda path: write_weights(path, {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_that_take_paths(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("gs://bucket/x.py", pathlib.Path("s3://bucket/x.py")):
        with pytest.raises(ConfigError, match=r"'(gs://|s3:/)bucket/x.py' is a URL"):
            # These take texts: plugins in a list, a sweep with a variant.
            CALLS[name]("gs://bucket/x.py" if name in ("load_plugins", "load_sweep") else url)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def busy(tmp_path):
    """A run folder with a configuration; `busy(name)` makes another thread hold a lock in it."""
    RunDir(tmp_path / "run").claim(load_config(CONFIG))
    done, threads = threading.Event(), []

    def hold(name, what):
        taken = threading.Event()

        def work():
            with locked(tmp_path / "run" / name, "workdir", what, "wait"):
                taken.set()
                done.wait(60)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        assert taken.wait(60)
        return tmp_path / "run"

    yield hold
    done.set()
    for thread in threads:
        thread.join()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME}


def refused(command, argv, capsys):
    assert cli.execute(main_of(command), argv) == cli.USER_ERROR
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


def test_a_second_training_is_refused_at_once_and_touches_nothing(busy, capsys, monkeypatch):
    folder = busy(LOCK_NAME, "training")
    before = contents(folder)
    monkeypatch.setattr("ditask_jax.training.trainer.Trainer", None)  # nothing is built
    for command in (["train"], ["references", "--out=scores.json"]):
        line = refused(command[0], [f"--config={CONFIG}", f"--workdir={folder}", *command[1:]], capsys)
        assert line.startswith(f"workdir: another training is working in '{folder}' (this process, pid ")
        assert "use another --workdir" in line
    assert contents(folder) == before


def test_a_training_keeps_no_reader_out_and_no_evaluation(busy):
    run = RunDir(busy(LOCK_NAME, "training"))
    assert run.load_config().tasks
    with run.scoring():
        assert (run.path / SCORES_LOCK_NAME).is_file()
    assert [found.path for found in find_runs([run.path], evaluated=False)] == [run.path]


def test_a_second_evaluation_is_refused_and_a_training_goes_on(busy, capsys, monkeypatch):
    folder = busy(SCORES_LOCK_NAME, "evaluation")
    line = refused("evaluate", [f"--workdir={folder}"], capsys)
    assert line.startswith(f"workdir: another evaluation is working in '{folder}'")
    run, entered = RunDir(folder), []
    # A training waits for it, but not for ever: it does not end without its scores.
    monkeypatch.setattr("ditask_jax.training.run_folder._PATIENCE", 0.3)
    with run.training(), run.scoring(waiting=True):
        entered.append(True)
    assert entered


def test_other_writers_are_refused(busy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = busy(LOCK_NAME, "prediction")
    (tmp_path / "a.png").write_bytes(b"")
    line = refused("predict", [f"--workdir={folder}", "--input=a.png", f"--out={folder}"], capsys)
    assert line.startswith(f"predict: --out: another prediction is working in '{folder}'")
    busy(".w.safetensors.lock", "pre-training")
    line = refused("pretrain", [f"--out={folder / 'w.safetensors'}", "--steps=1"], capsys)
    assert line.startswith(f"--out: another pre-training is working in '{folder}'")


def test_a_preflight_tells_of_a_training_in_the_folder(busy):
    folder = busy(LOCK_NAME, "training")
    before = contents(folder)
    with pytest.raises(CheckpointError, match="another training is working in"):
        check_workdir(Setting(load_config(CONFIG), None, folder, 1))
    assert contents(folder) == before
