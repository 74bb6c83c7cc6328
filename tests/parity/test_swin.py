"""Plain Swin against Microsoft's: every stage, norm, pooled features and logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from ditask_jax.backbones.swin import Swin, SwinConfig
from ditask_jax.conversion.swin_names import SWIN_OFFICIAL, SWIN_TIMM
from ditask_jax.model import Classifier
from ditask_jax.nn import Context
from ditask_jax.nn.linear import SHARED
from ditask_jax.weights import assign
from tests.parity.golden import Golden, find, size

FILES = find("swin_plain")


def _build(golden: Golden) -> Classifier:
    meta = golden.meta
    options = {"window": meta["window"], "mlp_ratio": int(meta.get("mlp_ratio", 4))}
    config = SwinConfig(meta["embed_dim"], tuple(meta["depths"]), tuple(meta["heads"]), **options)
    model = Classifier(Swin(config, size(meta["img"]), 0.0), meta["num_classes"])
    found, _, _ = SWIN_OFFICIAL.read(golden.under("param/"))
    assert not found.unknown
    assign(model, found.arrays)
    return model


def _forward(model: Classifier, images):
    """Everything the golden file holds, in our layout."""
    context, out = Context(train=False), {}
    x, streams = model.backbone.patch_embed(images, context)[None], (SHARED,)
    for index, stage in enumerate(model.backbone.stages):
        x, streams = stage(x, streams, context)
        out[f"stage{index}_blocks"] = x[0]
        if hasattr(stage, "merging"):
            x = stage.merging(x, streams, context)
        out[f"stage{index}"] = x[0]
    out["norm"] = model.norm(x[0])
    out["pooled"] = model.pooled(images, context)
    out["logits"] = model(images, context)
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_plain_swin(path):
    golden = Golden(path)
    model = _build(golden)
    images = jnp.asarray(golden["in/x"].transpose(0, 2, 3, 1))
    got = jax.jit(lambda x: _forward(model, x))(images)
    compared = 0
    for name, value in got.items():
        if f"out/{name}" not in golden:
            continue
        value = np.asarray(value)
        flat = rearrange(value, "b h w c -> b (h w) c") if value.ndim == 4 else value
        np.testing.assert_allclose(flat, golden[f"out/{name}"].reshape(flat.shape), atol=1e-4, rtol=0, err_msg=name)
        compared += 1
        timm_name = f"timm_out/{name.removesuffix('_blocks')}"
        if name.endswith("_blocks") and timm_name in golden:
            np.testing.assert_allclose(value, golden[timm_name], atol=1e-4, rtol=0, err_msg=timm_name)
    assert compared >= 2 * len(golden.meta["depths"])


@pytest.mark.parametrize("path", [path for path in FILES if Golden(path).has("timm_param/")], ids=lambda p: p.stem)
def test_timm_names_give_the_same_weights(path):
    golden = Golden(path)
    official = SWIN_OFFICIAL.read(golden.under("param/"))[0].arrays
    found, _, _ = SWIN_TIMM.read(golden.under("timm_param/"))
    assert not found.unknown
    assert not found.problems
    assert set(found.arrays) == set(official)
    for name, array in official.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)
