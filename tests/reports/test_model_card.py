"""Model cards: what they must say, and what they must not claim."""

import json

import numpy as np
import pytest

from ditask_jax.errors import CheckpointError
from ditask_jax.reports import read_run
from ditask_jax.reports.model_card import config_hash, model_card, weights_lines, write_model_card
from ditask_jax.weight_files import write_weights
from tests.reports.folders import write_run


def test_a_card_beside_a_run(tmp_path):
    folder = write_run(tmp_path / "thetas", 2.0, ("seed=3",), backbone=56_057, total=300_000)
    written = write_model_card(folder)
    text = written.read_text(encoding="utf-8")
    assert written == folder / "MODEL_CARD.md"
    for words in ("# thetas", "swin_nano_patch2_window6", "56,057 numbers in the backbone", "64 cells shared", "seed 3",
                  "licence: Apache-2.0", "semseg | mIoU | 24.41 %", "500 images", "network resolution 96",
                  config_hash(read_run(folder)), "## Limits", "one seed"):  # fmt: skip
        assert words in text, words
    assert str(tmp_path) not in text


def test_the_hash_is_that_of_the_configuration(tmp_path):
    seeds = {"a": 1, "b": 1, "c": 2}
    runs = [read_run(write_run(tmp_path / name, overrides=(f"seed={seed}",))) for name, seed in seeds.items()]
    one, same, other = runs
    assert config_hash(one) == config_hash(same) != config_hash(other)


def test_an_export_of_another_step_does_not_take_over_the_scores(tmp_path):
    folder = write_run(tmp_path / "run")
    written = write_model_card(folder, tmp_path / "merged.safetensors", step=7)
    assert written == tmp_path / "merged.MODEL_CARD.md"
    text = written.read_text(encoding="utf-8")
    assert "`merged.safetensors`, adapters merged, after 7 steps" in text
    assert "these scores are not its own" in text
    assert "not its own" not in model_card(read_run(folder), "merged.safetensors", 450)


def test_what_is_not_finished_or_not_scored_is_said(tmp_path):
    young = write_run(tmp_path / "young", step=3)
    assert "Training was not finished: step 3 of 450" in model_card(read_run(young))
    (young / "evaluation.json").unlink()
    assert "Not evaluated" in model_card(read_run(young, evaluated=False))
    with pytest.raises(CheckpointError, match="no folder"):
        write_model_card(tmp_path / "nothing")


def test_another_protocol_than_the_published_one_is_said(tmp_path):
    run = read_run(write_run(tmp_path / "p", 1.0, ("total_steps=9",), "configs/pascal_swin_tiny.py", examples=12))
    text = model_card(run)
    assert "Not the published protocol" in text
    assert "12 here, 5105 there" in text
    assert "come from other networks" in text


def test_released_weights_are_known_by_their_names(tmp_path):
    name = "swin_tiny_patch4_window7"
    path = tmp_path / "mine.safetensors"
    write_weights(path, {"a": np.zeros(2, np.float32)}, source=f"{name}_224_22k.pth", source_sha256="ab12")
    lines = "\n".join(weights_lines(name, str(path)))
    for words in ("mine.safetensors", "22k.pth` (SHA-256 `ab12`)", "trained on ImageNet-22k", "MIT", "non-commercial"):
        assert words in lines
    assert str(tmp_path) not in lines
    timm = "\n".join(weights_lines(name, f"{name}_224.ms_in22k_ft_in1k.safetensors"))
    assert "ImageNet-22k, then ImageNet-1k" in timm
    plain = "\n".join(weights_lines(name, f"/gone/{name}_224.pth"))
    assert "trained on ImageNet-1k" in plain


def test_weights_under_a_licence_of_their_own_name_its_pages():
    """From the registry: DINOv3 has to be accepted, and DINOv2 was trained on pictures that are not ImageNet's."""
    lines = "\n".join(weights_lines("vit_small_patch16_dinov3", "/gone/dinov3_vits16_pretrain_lvd1689m.pth"))
    for words in ("trained on LVD-1689M", "DINOv3 License, https://ai.meta.com/", "to be accepted on https://hugging"):
        assert words in lines
    lines = "\n".join(weights_lines("vit_base_patch14_dinov2", "/gone/vit_base_patch14_dinov2.lvd142m.safetensors"))
    assert "trained on LVD-142M" in lines
    assert "Apache-2.0; that of the images behind them is" in lines
    assert "ImageNet" not in lines


def test_unknown_weights_get_no_licence():
    lines = "\n".join(weights_lines("swin_tiny_patch4_window7", "/gone/of_a_friend.safetensors"))
    assert "licence: not known" in lines
    assert "of_a_friend" in lines
    assert "/gone" not in lines
    assert weights_lines("swin_test", None) == ["- none: training started from random numbers"]


def test_a_card_is_plain_markdown(tmp_path):
    text = model_card(read_run(write_run(tmp_path / "a", overrides=("method.name=lora",))))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert "rank 4, scale 1" in text
    assert json.dumps(text)
