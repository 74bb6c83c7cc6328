"""The commands from outside: what a mistake looks like, and what `describe` prints."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ditask_jax import cli, compare, evaluate, pretrain, references, train
from ditask_jax.config import flatten
from ditask_jax.config_fields import all_fields
from ditask_jax.describe import __main__ as describe

SMOKE = "--config=configs/smoke.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.tasks=semsge"], "config: tasks: 'semsge' is not a task of 'scenes'. Did you mean 'semseg'?"),
        (["--config.optimizr.learning_rate=1"], "Did you mean 'optimizer'"),
        (["--config.image_size=50"], "config: image_size: 50x50 does not fit"),
        (["--config.batch_size=12"], "expected a multiple of the 8 devices; use 8 or 16"),
        (["--config.backbone.weights=nowhere.safetensors"], "weights: no file 'nowhere.safetensors'"),
        (["--config.backbone.weights=embedded"], "'swin_test' has no embedded weights"),
        (["--config.backbone.name=swin_tests"], "Did you mean 'swin_test'"),
        (["--config.method.name=ditas"], "Did you mean 'ditask'"),
        (["--config.data.name=scene"], "Did you mean 'scenes'"),
        (["--config.head.name=hrnt"], "Did you mean 'hrnet'"),
        (["--config.data.name=folder", "--config.data.semseg_classes=3"], "data.root"),
        (["--config.batch_size=none"], "batch_size"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments, message, tmp_path, capsys):
    code = cli.execute(train.main, [SMOKE, f"--workdir={tmp_path / 'run'}", *arguments])
    captured = capsys.readouterr()
    assert code == cli.USER_ERROR
    assert len(captured.err.strip().splitlines()) == 1
    assert message in captured.err
    assert not (tmp_path / "run").exists()


def test_labels_that_need_another_configuration_do_not_claim_the_folder(tmp_path, capsys, monkeypatch):
    """So that the advice can be followed in the same folder."""
    from ditask_jax.training.experiment import build_source

    # A trainer without its model, which takes seconds to build.
    fit = lambda workdir, profile: (tmp_path / "run").mkdir()
    sources = lambda config: {"train_source": build_source(config, "train"), "eval_source": build_source(config, "val")}
    monkeypatch.setattr(
        "ditask_jax.training.trainer.Trainer", lambda config: SimpleNamespace(fit=fit, **sources(config))
    )
    monkeypatch.setattr(train, "_summary", lambda trainer: "")
    for split in ("train", "val"):
        for folder, pixels in (("images", np.zeros((32, 30, 3))), ("sal", np.array([0, 1, 255] * 320).reshape(32, 30))):
            (tmp_path / split / folder).mkdir(parents=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / folder / "a.png")
    command = [SMOKE, f"--workdir={tmp_path / 'run'}", "--config.data.name=folder", f"--config.data.root={tmp_path}"]
    command += ["--config.tasks=sal", "--config.data.train_examples=none", "--config.data.eval_examples=none"]
    assert cli.execute(train.main, command) == cli.USER_ERROR
    assert "a mask has 0 and one other value; set mask_ignore" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_corrupt_weight_file_is_named(tmp_path, capsys):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"not a weight file at all")
    arguments = [SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.backbone.weights={file}"]
    assert cli.execute(train.main, arguments) == cli.USER_ERROR
    assert "is damaged or no safetensors file" in capsys.readouterr().err


def test_evaluating_an_empty_folder(tmp_path, capsys):
    assert cli.execute(evaluate.main, [f"--workdir={tmp_path}"]) == cli.USER_ERROR
    assert "holds no run" in capsys.readouterr().err


def test_a_workdir_of_another_configuration(tmp_path, capsys):
    from ditask_jax.config import load_config
    from ditask_jax.training.run_folder import RunDir

    RunDir(tmp_path).claim(load_config("configs/smoke.py"))
    code = cli.execute(train.main, [SMOKE, f"--workdir={tmp_path}", "--config.seed=3"])
    assert code == cli.USER_ERROR
    assert "seed: 0 -> 3" in capsys.readouterr().err


def test_describe_as_json(capsys):
    assert cli.execute(describe.main, ["--config=configs/pascal_swin_tiny.py", "--json"]) == cli.OK
    content = json.loads(capsys.readouterr().out)
    assert content["trainable_backbone"] == 1_605_405
    assert content["trainable_total"] == 3_552_029
    assert content["upstream"] == {"trainable_backbone": 1_608_618, "trainable_total": 3_555_242}
    assert sum(content["groups"].values()) == content["trainable_total"]
    assert content["schedule"]["steps_per_epoch"] == 156
    assert content["schedule"]["learning_rate"] == pytest.approx(3.125e-5)
    assert content["config"]["method"]["domain"] == "value"


@pytest.mark.parametrize("arguments", [[], ["--config=configs/smoke.py", "--config.method.name=lora"]])
def test_describe_lists_every_field_with_default_and_help(arguments, capsys):
    """Of all methods and heads, or with the values of a configuration, of its own."""
    assert cli.execute(describe.main, ["--options", *arguments]) == cli.OK
    text = capsys.readouterr().out
    config = cli.Parser("x", "").parse(arguments).config if arguments else None
    wanted = all_fields() if config is None else flatten(config)
    assert set(re.findall(r"^  ([a-z][\w.]*) = ", text, re.MULTILINE)) == set(wanted)
    shown = " ".join(text.split())
    for name, option in all_fields().items():
        if name in wanted and not name.startswith("method."):
            assert " ".join(option.help.split()) in shown, name
    if config is not None:
        assert "  batch_size = 8 (default 32)\n" in text
        assert "method, with method.name=lora: " in text
        assert "shared_cells" not in text


def test_describe_lists_options_of_heads_of_single_tasks(capsys):
    heads = "--config.head.per_task={'classification': 'hrnet'}"
    arguments = ["--options", "--config=configs/vtab_swin_tiny.py:cifar100", heads]
    assert cli.execute(describe.main, arguments) == cli.OK
    text = capsys.readouterr().out
    assert "head, with head.name=linear: LayerNorm, " in text
    assert "head, with head.name=hrnet: Upsamples " in text
    assert "  head.widths = none\n" in text


def test_describe_wants_a_configuration_or_options(capsys):
    assert cli.execute(describe.main, []) == cli.USER_ERROR
    assert capsys.readouterr().err.startswith("command line: --config: missing. See python -m ditask_jax.describe")


@pytest.mark.slow
def test_what_compiled_programs_cost(capsys):
    arguments = [SMOKE, "--config.mesh.data=2", "--cost"]
    assert cli.execute(describe.main, [*arguments, "--json"]) == cli.OK
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert (cost["devices"], cost["step"]["images"], cost["forward"]["images"]) == (2, 4, 8)
    for name in ("step", "forward", "merging"):
        assert cost[name]["flops"] > 1e6
        memory = cost[name]["memory"]
        assert 0 < memory["temporary"] < memory["together"] <= sum(memory.values()) - memory["together"]
    assert cost["step"]["flops_per_image"] > cost["forward"]["flops_per_image"]
    # The state of a step is written over: it counts once.
    memory = cost["step"]["memory"]
    assert memory["together"] < memory["arguments"] + memory["results"] + memory["temporary"]


@pytest.mark.parametrize(("devices", "share"), [(8, 4), (1, 32), (7, None)])
def test_a_number_of_devices_changes_neither_steps_nor_rates(devices, share, capsys):
    config = "--config=configs/pascal_swin_tiny.py"
    assert cli.execute(describe.main, [config, f"--config.mesh.data={devices}", "--json"]) == cli.OK
    schedule = json.loads(capsys.readouterr().out)["schedule"]
    assert (schedule["devices"], schedule["images_per_device"]) == (devices, share)
    assert (schedule["steps_per_epoch"], schedule["total_steps"]) == (156, 46_800)
    assert schedule["learning_rate"] == pytest.approx(3.125e-5)


@pytest.mark.parametrize("variant", ["ditask", "frozen", "full", "no_transform", "single"])
def test_describe_as_text(variant, capsys):
    assert cli.execute(describe.main, [f"--config=configs/scenes.py:{variant}"]) == cli.OK
    text = capsys.readouterr().out
    assert "trainable total" in text
    assert "effective numbers" in text


def test_the_control_is_ditasks_trainable_set_without_thetas(capsys):
    counts = {}
    for variant in ("ditask", "no_transform"):
        cli.execute(describe.main, [f"--config=configs/scenes.py:{variant}", "--json"])
        counts[variant] = json.loads(capsys.readouterr().out)["groups"]
    thetas = ("adapter shared", "adapter task")
    assert {k: v for k, v in counts["ditask"].items() if k not in thetas} == counts["no_transform"]


@pytest.mark.parametrize("command", [train, evaluate, compare, describe, pretrain, references])
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out
