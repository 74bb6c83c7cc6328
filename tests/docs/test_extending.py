"""docs/extending.md: each of its six files, written as printed, obeys the laws of what is built in, and trains."""

import contextlib
import importlib
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import ditask_jax as dj
from ditask_jax import backbones, cli, plugins
from ditask_jax.adapters import make_plan, method_class, method_registry
from ditask_jax.conversion.exporting import backbone_arrays, load_program
from ditask_jax.data import open_source, sources, wrappers
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.heads import head_registry
from ditask_jax.labels import IGNORE
from ditask_jax.nn import Context
from ditask_jax.tasks import task_registry
from ditask_jax.training.restore import restore_run
from ditask_jax.weight_files import read_tensors
from tests.adapters import test_method_laws as method_laws
from tests.adapters.cases import Wrapped, largest_difference
from tests.docs.pages import ROOT, samples
from tests.heads import test_head_laws as head_laws

FILES = {re.fullmatch(r"`(\w+\.py)`", s.above)[1]: s.text for s in samples() if s.page == "extending.md"}
TABLES = (
    method_registry._METHODS,
    backbones.REGISTRY,
    backbones._CLASSES,
    head_registry.HEADS,
    task_registry.DATASETS,
    task_registry._OTHERS,
    wrappers.LABELS,
    sources.OPENERS,
    plugins._FILES,
)


@contextlib.contextmanager
def plugged_in(folder: pathlib.Path, *names: str, **texts: str):
    """The files of the page, written and loaded as the commands load them; afterwards every registry is as before.

    `texts` are files of other content, by name without `.py`.
    """
    texts = {f"{name}.py": text for name, text in texts.items()}
    names = (*names, *(name for name in texts if name not in names))
    for name in names:
        (folder / name).write_text(texts.get(name) or FILES[name])
    before, path = [dict(table) for table in TABLES], list(sys.path)
    try:
        yield plugins.load_plugins(os.pathsep.join(str(folder / name) for name in names))
    finally:
        for table, content in zip(TABLES, before, strict=True):
            table.clear()
            table.update(content)
        sys.path[:] = path
        for name in names:
            sys.modules.pop(name.removesuffix(".py"), None)
        importlib.invalidate_caches()


def write_pairs(root: pathlib.Path, **counts: int) -> None:
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        source = open_source("scenes", split, ["depth"], image_size=(40, 56), num_examples=count)
        for number in range(count):
            example = source[number]
            np.savez(root / split / f"{number:03d}.npz", image=example["image"], depth=example["depth"])


def test_the_page_has_a_file_for_each():
    assert set(FILES) == {"people.py", "distance.py", "summing.py", "scaling.py", "crossing.py", "pairs.py"}


def test_a_task(tmp_path):
    with plugged_in(tmp_path, "people.py"):
        (task,) = dj.create_tasks("people", dataset="scenes")
        source = open_source("scenes", "val", ["people"], image_size=32, num_examples=8)
        both = pickle.loads(pickle.dumps(open_source("scenes", "val", ["people", "semseg"], image_size=32)))
        examples = [source[k] for k in range(8)]
        assert all(set(example) == {"image", "id", "people"} for example in examples)
        for k, example in enumerate(examples):
            np.testing.assert_array_equal(example["people"], both[k]["semseg"] == 2)
        label = np.stack([example["people"] for example in examples])
        assert label.dtype == task.label_spec.dtype
        assert 0 < label.mean() < 0.5
        label[0, :5] = IGNORE
        logits = np.random.default_rng(0).standard_normal((*label.shape, 1)).astype(np.float32)
        valid = np.arange(8) != 3
        check_task_laws(task, logits, label, valid)
        found, true = (logits[..., 0] > 0)[valid], label[valid]
        hit, union = (found & (true == 1)).sum(), ((found | (true == 1)) & (true != IGNORE)).sum()
        assert task.finalize(task.metric_sums(logits, label, valid)) == {"iou": pytest.approx(hit / union)}
        perfect = np.where(label == 1, 9.0, -9.0)[..., None].astype(np.float32)
        assert task.finalize(task.metric_sums(perfect, label)) == {"iou": 1.0}
        with pytest.raises(ConfigError, match="'people' is registered already"):
            dj.register_task(task, ["scenes"])
        with pytest.raises(ConfigError, match="'people' is not a task of 'pascal'"):
            dj.create_tasks("people", dataset="pascal")
    with pytest.raises(ConfigError, match="'people' is not a task of 'scenes'"):
        dj.create_tasks("people", dataset="scenes")


def check_task_laws(task, logits, label, valid) -> None:
    """Losses and sums do not see what is ignored or padded; sums of parts make the sum of the whole."""
    loss = jax.value_and_grad(lambda z, l, v: task.loss(z, l, v))
    value, gradient = loss(logits, label, valid)
    assert np.isfinite(value)
    assert value > 0
    gradient = np.asarray(gradient)
    assert not gradient[~valid].any()
    assert not gradient[label == IGNORE].any()
    assert gradient[valid][label[valid] != IGNORE].any()
    nothing, gradient = loss(logits, np.full_like(label, IGNORE), valid)
    assert nothing == 0
    assert not np.any(gradient)
    whole = task.accumulate(None, task.metric_sums(logits, label, valid))
    total = None
    for part in (slice(0, 3), slice(3, 4), slice(4, 8)):
        total = task.accumulate(total, task.metric_sums(logits[part], label[part], valid[part]))
    assert {name: array.tolist() for name, array in total.items()} == {n: a.tolist() for n, a in whole.items()}
    assert task.primary_metric in task.finalize(whole)
    assert task.finalize(task.metric_sums(logits, np.full_like(label, IGNORE), valid)) == {}
    picture = task.render(np.asarray(task.decode(logits))[0])
    assert picture.dtype == np.uint8
    assert picture.shape == (*label.shape[1:], 3)


def test_a_head(tmp_path):
    with plugged_in(tmp_path, "summing.py") as (module,):
        head_laws.check_head("summing", head_laws.SIDES["odd"])
        head_laws.test_options_are_described_and_checked("summing")
        tasks = dj.create_tasks("semseg+depth", dataset="scenes")
        head, options = {"depth": "summing"}, {"channels": 6}
        model = dj.create_model("swin_test", tasks, 32, head, (4,) * 4, abstract=True, head_options=options)
        assert model.recipe.head == {"semseg": "hrnet", "depth": "summing"}
        assert set(model.necks) == {"semseg"}
        assert model.heads["depth"].classify.kernel.shape == (6, 1)
        with pytest.raises(ConfigError, match=r"head\.channels: got 0, expected an integer from 1 up"):
            dj.create_model("swin_test", tasks, 32, head, abstract=True, head_options={"channels": 0})
        with pytest.raises(ConfigError, match=r"unknown name 'chanels'\. Did you mean 'channels'"):
            dj.create_model("swin_test", tasks, 32, head, abstract=True, head_options={"chanels": 4})
        with pytest.raises(ConfigError, match="'hrnet' is registered already"):
            dj.register_head("hrnet", module.SummingHead)
    assert "summing" not in head_registry.HEADS


@pytest.mark.slow  # every law; by default it trains and is exported with the others
def test_a_method(tmp_path):
    with plugged_in(tmp_path, "scaling.py"):
        method = method_class("scaling")()
        method_laws.check_all(method, ("semseg", "depth", "sal"))
        plan = make_plan(method_laws.plain_model("depth"), method)
        assert {layer.info.role for layer in plan.layers} == {"qkv", "proj", "fc1", "fc2", "reduction"}
    assert "scaling" not in dj.method_names()


def test_a_backbone(tmp_path):
    with plugged_in(tmp_path, "crossing.py") as (module,):
        assert "crossing_tiny" in dj.list_models()
        method = dj.DiTASK(shared_cells=4, task_cells=4, dropout=0.0)
        wrapped = Wrapped(method, "semseg", "depth", backbone="crossing_tiny")
        bare, images = backbones.create_backbone("crossing_tiny", 64), np.zeros((2, 64, 64, 3), np.float32)
        taps = jax.eval_shape(lambda x: [x for x, _ in bare(x, Context(train=False))], images)
        assert [tap.shape for tap in taps] == [(1, 2, 16, 16, 16)] * 4
        plan = wrapped.plan
        split = {layer.info.path for layer in plan.layers if "depth" in layer.streams}
        assert len(split) == 12
        assert len(plan.layers) == 15
        # A task's own parameters move its logits and nobody else's.
        start = wrapped.logits()
        moved = move(wrapped.parts.trainable, "theta_depth")
        after = wrapped.logits(moved)
        assert largest_difference(start["semseg"], after["semseg"]) == 0
        assert largest_difference(start["depth"], after["depth"]) > 1e-3
        abstract = dj.create_model("crossing_tiny", dj.create_tasks("depth"), 64, widths=(4,) * 4, abstract=True)
        assert make_plan(abstract, dj.LoRA()).trainable_backbone > 0
        assert backbones.create_backbone("crossing_tiny", 64, readout="last").readout == "last"
        with pytest.raises(ConfigError, match="Nearest valid sizes: 64x64"):
            backbones.create_backbone("crossing_tiny", 66)
        with pytest.raises(ConfigError, match="'swin_test' is registered already"):
            dj.register_backbone("swin_test", backbones.backbone_entry("crossing_tiny"), module.CrossingNet)
        with pytest.raises(ConfigError, match="CrossingConfig belong to another backbone"):
            dj.register_backbone("other", backbones.backbone_entry("crossing_tiny"), backbones.Backbone)
    assert "crossing_tiny" not in dj.list_models()


def move(tree, ending: str):
    if isinstance(tree, dict):
        return {
            name: value + 0.5 if name == ending else move(value, ending) if isinstance(value, dict) else value
            for name, value in tree.items()
        }
    return tree


def test_a_data_set(tmp_path):
    with plugged_in(tmp_path, "pairs.py"):
        write_pairs(tmp_path / "data", train=3, val=2)
        train = open_source("pairs", "train", ["depth"], root=tmp_path / "data")
        assert (len(train), len(open_source("pairs", "val", ["depth"], root=tmp_path / "data"))) == (3, 2)
        assert len(open_source("pairs", "train", ["depth"], root=tmp_path / "data", num_examples=1)) == 1
        example = pickle.loads(pickle.dumps(train))[1]
        assert example["image"].shape == (40, 56, 3)
        assert example["image"].dtype == np.uint8
        assert example["depth"].dtype == np.float32
        with pytest.raises(DataError, match=r"no \.npz files"):
            open_source("pairs", "train", ["depth"], root=tmp_path)
        with pytest.raises(ConfigError, match="'sal' is not a task of 'pairs'"):
            dj.create_tasks("sal", dataset="pairs")
        with pytest.raises(ConfigError, match="'pairs' is registered already"):
            dj.register_dataset("pairs", len, ["depth"])


def command(module: str, *arguments: str, plugins: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"DITASK_PLUGINS": plugins, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", *module.split(), *arguments]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_plugins_of_commands(tmp_path):
    """A plugin is there for every command; one that fails is a line with exit code 2."""
    (tmp_path / "pairs.py").write_text(FILES["pairs.py"])
    write_pairs(tmp_path / "data", train=1)
    show = ("ditask_jax.data show", "pairs", "--root=data", "--tasks=depth", "--size=32", "--out=example.png")
    done = command(*show, plugins="pairs.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "example.png").stat().st_size > 1000
    (tmp_path / "broken.py").write_text("import ditask_jax\n\nditask_jax.nothing\n")
    done = command(*show, plugins="broken.py", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("plugins: broken.py, line 3: AttributeError: module 'ditask_jax' has no attribute")
    assert done.stderr.count("\n") == 1


def test_a_plugin_that_hides_behind_another_module(tmp_path):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ConfigError, match="there is another module 'json'"):
        plugins.load_plugins(str(tmp_path / "json.py"))


ALL = ("distance.py", "summing.py", "scaling.py", "crossing.py", "pairs.py")
# A task of the whole image beside the map: another head in the same model.
FAR = """
import ditask_jax as dj
from ditask_jax.tasks.classification import Classification


def label(example):
    return int(example["depth"].mean() > 2.0)


dj.register_task(Classification(name="far", num_outputs=2, class_names=("near", "far")), ["pairs"], label, ["depth"])
"""
SMOKE = (
    "--config.image_size=32",
    "--config.batch_size=2",
    "--config.total_steps=2",
    "--config.data.eval_examples=2",
    "--config.mesh.data=1",
)


def run(module: str, *arguments: str) -> None:
    """A command in this process."""
    assert cli.execute(importlib.import_module(f"ditask_jax.{module}").main, list(arguments)) == cli.OK, arguments


@pytest.mark.slow
def test_all_together_through_every_command(tmp_path, monkeypatch, capsys):
    """Tasks, heads, method, backbone and data set at once: trained, resumed, scored, predicted, exported, compared."""
    write_pairs(tmp_path / "data", train=4, val=2)
    monkeypatch.chdir(tmp_path)
    smoke = f"--config={ROOT / 'configs/smoke.py'}"
    # A data set may name tasks of files before it.
    pairs = FILES["pairs.py"].replace('tasks=["depth"]', 'tasks=["depth", "distance"], terms="drawn by a test"')
    with plugged_in(tmp_path, *ALL, pairs=pairs, far=FAR):
        options = [
            smoke,
            *SMOKE,
            "--workdir=run",
            "--config.tasks=distance+far",
            "--config.backbone.name=crossing_tiny",
        ]
        options += ["--config.head.per_task={'distance': 'summing'}"]
        options += ["--config.method.name=scaling", "--config.data.name=pairs", "--config.data.root=data"]
        run("train", *options)
        shown = capsys.readouterr().out
        scores = json.loads(pathlib.Path("run/evaluation.json").read_text())["scores"]
        assert set(scores["distance"]) == {"mae"}
        assert set(scores["far"]) == {"top1"}
        assert f"{scores['distance']['mae']:.2f} mm" in shown
        changed = [word.replace("total_steps=2", "total_steps=3") for word in options]
        run("train", *changed, "--config.checkpoint.allow_changed=total_steps")
        assert "resuming from step 2 of 3" in capsys.readouterr().err
        run("evaluate", "--workdir=run")
        check_predictions()
        check_exports(capsys)
        run("figures", "run", "--out=figures", "--formats=svg", "--examples=0", "--kinds=panels,curves")
        panel = pathlib.Path("figures/panels_distance.svg").read_text()
        assert re.search(r"\d mm", panel)
        assert "mae (mm)" in pathlib.Path("figures/scores.svg").read_text()
        run("compare", "run", "--out=comparison")
        assert "distance mae ↓ (mm)" in capsys.readouterr().out
        run("report", "run", "--out=report.html")
        assert "distance mae ↓ (mm)" in (page := pathlib.Path("report.html").read_text())
        assert "black to white: near to far" in page
        card = pathlib.Path("run/MODEL_CARD.md").read_text()
        assert "`pairs`: drawn by a test" in card
        assert "decoders `summing` (distance), `linear` (far)" in card
        assert re.search(r"distance \| mae \| [\d.,]+ mm", card)


def check_predictions() -> None:
    """Raw files hold millimetres, not probabilities; images and panels are there."""
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save("picture.png")
    run("predict", "--workdir=run", "--input=picture.png", "--out=npy")
    run("predict", "--workdir=run", "--input=picture.png", "--out=png", "--raw=png", "--no-panels")
    found = np.load("npy/raw/distance/picture.png.npy")
    assert (found.shape, found.dtype) == ((40, 50), np.float32)
    assert json.loads(pathlib.Path("npy/raw/far/picture.png.json").read_text())["name"] in ("near", "far")
    levels = np.asarray(Image.open("png/raw/distance/picture.png.png"))
    np.testing.assert_array_equal(levels, np.round(found).clip(0, 65535))
    assert json.loads(pathlib.Path("npy/predictions.json").read_text())["tasks"]["distance"]["unit"] == "mm"
    assert json.loads(pathlib.Path("png/predictions.json").read_text())["tasks"]["distance"]["holds"].startswith(
        "16-bit"
    )
    assert {path.name for path in pathlib.Path("npy").rglob("*.png")} == {"picture.png.png"}


def check_exports(capsys) -> None:
    """Every array of the merged backbone is in the file, and the program computes what the model does."""
    run("export", "--workdir=run", "--layout=ditask", "--out=all.safetensors")
    tensors, metadata = read_tensors(pathlib.Path("all.safetensors"), "export")
    assert json.loads(metadata["model"])["config"] == {"channels": 16, "depths": [1, 1, 2, 1], "patch": 4}
    restored = restore_run("run")
    merged = dj.merge(restored.experiment.model, restored.state)
    kernel = np.asarray(merged.backbone.blocks[0].attn.proj.kernel[...])
    np.testing.assert_array_equal(tensors["backbone.blocks.0.attn.proj.weight"], kernel.T)
    inside = [name for name in tensors if name.startswith("backbone.")]
    assert len(inside) == len(backbone_arrays(merged))
    main = importlib.import_module("ditask_jax.export").main
    for layout in ("timm", "official", "huggingface"):
        capsys.readouterr()
        refused = cli.execute(main, ["--workdir=run", f"--layout={layout}", "--out=other.safetensors"])
        error = capsys.readouterr().err
        assert (refused, error.count("\n")) == (cli.USER_ERROR, 1)
        assert "'crossing_tiny' declares no names of another code base" in error
        assert "register_layout" in error
    run("export", "--workdir=run", "--program", "--out=all.stablehlo")
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    computed, expected = load_program("all.stablehlo")(images), merged(images, Context(train=False))
    assert {name: logits.shape for name, logits in computed.items()} == {"distance": (1, 32, 32, 3), "far": (1, 2)}
    for name, logits in computed.items():
        np.testing.assert_allclose(logits, expected[name], atol=1e-4)
    # Heads of plug-ins keep our names; an adapter's folder says which heads there are.
    head = restored.experiment.model.heads["distance"]
    np.testing.assert_array_equal(tensors["heads.distance.classify.weight"].T.shape, head.classify.kernel.shape)
    assert json.loads(metadata["model"])["head"] == {"distance": "summing", "far": "linear"}
    dj.save_adapter("adapter", restored.experiment.model, restored.state)
    again = dj.Predictor.from_adapter("adapter", dataset="pairs")([images[0]])[0]
    once = dj.Predictor.from_run("run")([images[0]])[0]
    assert all(np.array_equal(again[name], value) for name, value in once.items())


@pytest.mark.slow
def test_all_train_together_by_commands(tmp_path):
    """By commands: a short training with loader processes, and its evaluation, which reads the run's folder."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    write_pairs(tmp_path / "data", train=8, val=3)
    small = ["--config=configs/smoke.py", "--config.total_steps=2", "--config.image_size=32"]
    small += ["--config.backbone.name=crossing_tiny", "--config.method.name=scaling", "--config.data.workers=1"]
    runs = {
        "people": ["--config.tasks=semseg+people"],
        "pairs": ["--config.tasks=depth", "--config.data.name=pairs", "--config.data.root=data"],
    }
    for name, options in runs.items():
        chosen = os.pathsep.join(FILES)
        train = [*small, *options, "--config.data.train_examples=8", f"--workdir={name}"]
        done = command("ditask_jax.train", *train, plugins=chosen, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        done = command("ditask_jax.evaluate", f"--workdir={name}", plugins=chosen, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        scores = json.loads((tmp_path / name / "evaluation.json").read_text())["scores"]
        assert set(scores) == ({"semseg", "people"} if name == "people" else {"depth"})
        assert command("ditask_jax.evaluate", f"--workdir={name}", plugins="", cwd=tmp_path).returncode == 2
