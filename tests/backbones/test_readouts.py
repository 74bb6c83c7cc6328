"""What is read from a backbone: a tap per stage, the last stage alone, the class token alone, or beside the stages."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import DiTASK, make_plan
from ditask_jax.backbones import backbone_config, create_backbone, list_models
from ditask_jax.errors import ConfigError
from ditask_jax.model import create_model
from ditask_jax.nn import Context
from tests.adapters.cases import task_list

TESTS = list_models("*_test")
CONTEXT = Context(train=False)


def shapes(backbone):
    images = jnp.zeros((2, 64, 64, 3))
    return [x.shape for x in jax.eval_shape(lambda x: [tap for tap, _ in backbone(x, CONTEXT)], images)]


@pytest.mark.parametrize("name", TESTS)
def test_shapes_of_taps(name):
    channels = backbone_config(name).feature_channels
    found = {r: shapes(create_backbone(name, 64, readout=r)) for r in backbone_config(name).readouts}
    assert [shape[-1] for shape in found["map"]] == list(channels)
    assert found["last"] == found["map"][-1:]
    assert ("token" in found) == (name in ("vit_test", "pvt_test", "dinov2_test", "dinov3_test"))
    assert found.get("token") in (None, [(1, 2, 1, 1, channels[-1])])
    if "token" in found:
        assert found["map+token"] == found["map"] + found["token"]


@pytest.mark.parametrize("name", [name for name in TESTS if "token" not in backbone_config(name).readouts])
def test_no_class_token_to_read(name):
    with pytest.raises(ConfigError, match=r"create_backbone: readout: 'token': .* has no class token"):
        create_backbone(name, 64, readout="token")


@pytest.mark.parametrize("name", TESTS)
def test_a_classifier_splits_streams_in_the_last_stage_only(name):
    """The streams of earlier stages are unused, so that no parameter of theirs may exist."""
    tasks = [SimpleNamespace(name=t, num_outputs=3, is_map=False) for t in ("a", "b")]
    model = create_model(name, tasks, 64, head="linear", abstract=True)
    assert model.backbone.readout == ("token" if "token" in model.backbone.config.readouts else "last")
    plan = make_plan(model, DiTASK())
    stages = {p.info.stage for p in plan.layers if any(key != "theta_shared" for key in p.parameters)}
    assert stages == {max(p.info.stage for p in plan.layers)}


def test_chosen_taps():
    model = create_model("vit_test", task_list("semseg"), 64, widths=(4, 6), taps=(1, 4), abstract=True)
    plan = make_plan(model, DiTASK())
    own = {p.info.path.split("/")[2] for p in plan.layers if "theta_semseg" in p.parameters}
    assert own == {"1", "4"}
    assert model.recipe.taps == (1, 4)


def test_taps_are_what_their_blocks_give():
    """A tapped block's features are the same whatever else is tapped."""

    def run(taps):
        backbone = create_backbone("vit_test", 64, taps=taps)
        return [np.asarray(x) for x in jax.jit(lambda images: [x for x, _ in backbone(images, CONTEXT)])(IMAGES)]

    all_of_them, few = run(range(5)), run((2, 4))
    np.testing.assert_array_equal(few[0], all_of_them[2])
    np.testing.assert_array_equal(few[1], all_of_them[4])


IMAGES = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)


@pytest.mark.parametrize(
    ("name", "taps", "message"),
    [
        ("vit_test", (3,), "end in the last block, 4"),
        ("vit_test", (2, 1, 4), "rising"),
        ("vit_test", (), "rising"),
        ("swin_test", (0, 1), "'swin_test' is read behind its stages"),
    ],
)
def test_impossible_taps(name, taps, message):
    with pytest.raises(ConfigError, match=f"config: backbone.taps: .*{message}"):
        create_backbone(name, 64, taps=taps)


@pytest.mark.parametrize("name", [pytest.param("dinov2_test", marks=pytest.mark.slow), "dinov3_test"])
def test_maps_hold_patches_and_the_token_is_the_first(name):
    """Of all tokens of the last block: neither class token nor registers are in the maps, and no register is read."""
    backbone = create_backbone(name, (32, 64), readout="map+token")

    def run(images):
        x, streams = backbone.embed(images, CONTEXT), ("shared",)
        for block in backbone.blocks:
            x, streams = block(x, streams, CONTEXT)
        return x, [tap for tap, _ in backbone(images, CONTEXT)[-2:]]

    x, (last, token) = jax.jit(run)(IMAGES[:, :32])
    leading = {"dinov2_test": 3, "dinov3_test": 5}[name]
    assert x.shape == (1, 1, leading + 2 * 4, 16)
    np.testing.assert_allclose(last, x[:, :, leading:].reshape(1, 1, 2, 4, 16), atol=1e-6)
    np.testing.assert_allclose(token, x[:, :, :1, None], atol=1e-6)


def test_widths_follow_the_taps():
    with pytest.raises(ConfigError, match=r"got 4 widths, expected one per stage \(2\)"):
        create_model("vit_test", task_list("semseg"), 64, widths=(18, 36, 72, 144), taps=(1, 4), abstract=True)
