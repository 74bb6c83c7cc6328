"""The sample of the documentation, line by line: from a model put together by hand to files for others."""

import json

import jax
import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax import cli, export
from ditask_jax.config import from_json, to_json
from ditask_jax.nn import flatten
from ditask_jax.tensors import read_tensors
from ditask_jax.training.build import build_method
from ditask_jax.training.from_model import experiment_from
from ditask_jax.training.restoring import restore_run
from ditask_jax.weight_files import write_weights
from tests.training.small import NAME, two_stages

TASKS = "semseg+depth"
# Both executions; more layers of the same kinds are only more to compile.
SHARED = {"shared_layers": ("qkv", "fc2"), "task_layers": ()}


@pytest.fixture(scope="module", autouse=True)
def small_backbone():
    with two_stages():
        yield


def make(tmp_path, seed=0, **method):
    tasks = dj.tasks(TASKS, dataset="scenes")
    model = dj.create_model(NAME, tasks=tasks, image_size=32, head="hrnet", widths=(4, 4), seed=seed)
    if not (tmp_path / "start.safetensors").exists():
        source = dj.create_model(NAME, tasks, 64, widths=(4, 4), seed=7)
        flat = flatten(dj.split_state(source).trainable)
        body = {name: np.asarray(value) for name, value in flat.items() if name.startswith("backbone/")}
        carried = {"norm/scale": np.ones(16, np.float16), "norm/bias": np.zeros(16, np.float16)}
        described = {"architecture": NAME, "mean": "[0.4, 0.4, 0.4]", "std": "[0.2, 0.2, 0.2]"}
        write_weights(tmp_path / "start.safetensors", body | carried, **described)
    dj.load_backbone(model, tmp_path / "start.safetensors")
    return tasks, model, dj.wrap(model, dj.DiTASK(shared_cells=8, **method), examples=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps of a model whose tasks share one stream."""
    folder = tmp_path_factory.mktemp("sample")
    tasks, model, plan = make(folder, **SHARED)
    config = dj.load_config("configs/smoke.py", ["total_steps=2", "mesh.data=1", "tasks=semseg"])
    trainer = dj.Trainer(model, tasks, config)
    state = trainer.fit(folder / "run")
    return folder, tasks, model, plan, trainer, state


def test_the_model_decides(run):
    folder, _, model, plan, trainer, _ = run
    assert trainer.experiment.plan.to_json() == plan.to_json()
    written = from_json((folder / "run" / "config.json").read_text())
    assert (written.tasks, written.image_size, written.backbone.name) == (TASKS, 32, NAME)
    assert written.method.name == "ditask"
    assert (written.method.shared_cells, written.method.task_layers) == (8, ())
    assert written.backbone.weights == str(folder / "start.safetensors")
    assert model.mean == (0.4, 0.4, 0.4)


def test_the_rest_of_the_sample(run, tmp_path):
    _, _, model, _, trainer, state = run
    shown = str(trainer.evaluate(state))
    assert "semseg/mIoU" in shown
    assert "depth/rmse" in shown
    dj.save_adapter(tmp_path / "adapter", model, state)
    merged = dj.merge(model, state)
    dj.export_weights(tmp_path / "merged.safetensors", merged, layout="ditask")
    _, other, _ = make(run[0], **SHARED)
    dj.load_adapter(tmp_path / "adapter", other)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    context = dj.Context(train=False)
    expected = jax.jit(lambda x: merged(x, context))(images)
    again = dj.merge(other)
    for task, logits in jax.jit(lambda x: again(x, context))(images).items():
        np.testing.assert_array_equal(np.asarray(logits), np.asarray(expected[task]))
    dj.export_weights(tmp_path / "again.safetensors", other)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "merged.safetensors").read_bytes()


def test_a_run_is_restored_from_its_folder_alone(run):
    folder, _, _, plan, trainer, state = run
    restored = restore_run(folder / "run")
    assert restored.step == trainer.total_steps
    assert restored.experiment.plan.to_json() == plan.to_json()
    for mine, theirs in zip(restored.state, (state[0], state[2]), strict=True):
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, mine, theirs)))


def test_the_export_command(run, tmp_path, capsys):
    folder, _, model, _, _, state = run
    workdir = f"--workdir={folder / 'run'}"
    out = tmp_path / "timm.safetensors"
    assert cli.execute(export.main, [workdir, "--layout=timm", f"--out={out}"]) == cli.OK
    assert "timm layout" in capsys.readouterr().out
    tensors, _ = read_tensors(out, "it")
    assert tensors["norm.weight"].dtype == np.float16
    dj.export_weights(tmp_path / "same.safetensors", model, "timm", state)
    assert (tmp_path / "same.safetensors").read_bytes() == out.read_bytes()
    wrong = [
        ([workdir, f"--out={out}"], "give either --layout NAME or --program"),
        ([workdir, "--layout=timm", "--program", f"--out={out}"], "give either --layout NAME or --program"),
        ([workdir, "--layout=tim", f"--out={out}"], "Did you mean 'timm'"),
        ([workdir, "--layout=timm", "--out=x.pth"], "ends in .safetensors"),
        ([workdir, "--program", "--out=x.pb"], "ends in .stablehlo"),
        ([f"--workdir={tmp_path}", "--layout=timm", f"--out={out}"], "holds no run"),
    ]
    for arguments, message in wrong:
        assert cli.execute(export.main, arguments) == cli.USER_ERROR
        assert message in capsys.readouterr().err
    start, moved = folder / "start.safetensors", folder / "moved.safetensors"
    start.rename(moved)
    again = [workdir, "--layout=timm", f"--out={tmp_path / 'again.safetensors'}"]
    assert cli.execute(export.main, again) == cli.USER_ERROR
    assert "no file" in capsys.readouterr().err
    assert cli.execute(export.main, [*again, f"--weights={moved}"]) == cli.OK
    moved.rename(start)
    assert (tmp_path / "again.safetensors").read_bytes() == out.read_bytes()


def test_what_does_not_fit_together(tmp_path):
    config = dj.load_config("configs/smoke.py", ["mesh.data=1"])
    tasks, model, _ = make(tmp_path)
    with pytest.raises(dj.ConfigError, match="created for tasks"):
        dj.Trainer(model, tasks[:1], config)
    bare = dj.create_model(NAME, tasks, 32, widths=(4, 4))
    with pytest.raises(dj.ConfigError, match="the model is not wrapped"):
        dj.Trainer(bare, tasks, config)
    random = dj.create_model(NAME, tasks, 32, widths=(4, 4), seed=3)
    dj.wrap(random, dj.Frozen())
    with pytest.raises(dj.ConfigError, match="random weights of seed 3"):
        dj.Trainer(random, tasks, config)
    with pytest.raises(dj.ConfigError, match="no configuration"):
        dj.Trainer(model, tasks)
    with pytest.raises(dj.WeightsError, match="has adapters already"):
        dj.load_backbone(model, tmp_path / "start.safetensors")


def test_weights_of_other_heads_are_refused(tmp_path):
    """Attention heads shape no array: only the name of the architecture tells them."""
    tasks = dj.tasks("depth", dataset="scenes")
    model = dj.create_model("vit_test", tasks, 64)
    body = {n: np.asarray(v) for n, v in flatten(dj.split_state(model).trainable).items()}
    body = {name: value for name, value in body.items() if name.startswith("backbone/")}
    write_weights(tmp_path / "x.safetensors", body, architecture="vit_tiny_patch16", mean=json.dumps([0, 0, 0]))
    with pytest.raises(dj.WeightsError, match="with 3 attention heads, the model has 2"):
        dj.load_backbone(model, tmp_path / "x.safetensors")


def test_chosen_taps_stay_chosen():
    tasks = dj.tasks("depth", dataset="scenes")
    model = dj.create_model("vit_test", tasks, 32, widths=(4, 4), taps=(1, 4))
    plan = dj.wrap(model, dj.DiTASK(shared_cells=8, task_cells=4), examples=8)
    trainer = dj.Trainer(model, tasks, dj.load_config("configs/smoke.py", ["mesh.data=1"]))
    assert trainer.config.backbone.taps == (1, 4)
    assert trainer.experiment.plan.to_json() == plan.to_json()


@pytest.mark.parametrize(
    "method",
    [
        dj.DiTASK(shared_cells=3, task_cells={"semseg": 4, "depth": (2, 3, 4, 5)}, init="upstream", dropout=0.25),
        dj.LoRA(rank=(1, 2, 3, 4), scale=2.5, layers=("fc1", "fc2"), scale_trains=True, unfrozen=("norms",)),
        dj.DoRA(rank=3, scale=(0.5, 1.0, 1.5, 2.0), layers=("qkv",), dropout=0.0),
        dj.MTLoRA(
            shared_rank=2, task_rank={"semseg": 1, "depth": 2}, shared_scale=0.5, scale_trains=True, mode="matrixv2"
        ),
        dj.SVF(task_layers=("proj",), task_blocks=2),
        dj.Adapter(bottleneck=(2, 3, 4, 5), unfrozen=()),
    ],
    ids=lambda method: method.name,
)
def test_every_option_of_a_method_is_written_down(method):
    """What a resumed run builds its method from is the method of the model, and not a default of the configuration."""
    tasks = dj.tasks(TASKS, dataset="scenes")
    model = dj.create_model("swin_test", tasks, 32, widths=(4, 4, 4, 4))
    dj.wrap(model, method, examples=8)
    experiment = experiment_from(model, tasks, dj.load_config("configs/smoke.py", ["mesh.data=1"]))
    again = from_json(to_json(experiment.config))
    assert build_method(again) == method
