"""ViT against timm's: embedded tokens, every block, final norm and logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.backbones import build_backbone
from ditask_jax.backbones.blocks import EVERY_STAGE
from ditask_jax.backbones.vit import EPSILON, VitConfig
from ditask_jax.conversion.vit_names import TIMM_RULES
from ditask_jax.nn import Context, LayerNorm, Scope
from ditask_jax.nn.linear import SHARED
from ditask_jax.weights import assign, fit_backbone
from tests.parity.golden import Golden, find, size

FILES = find("vit")
CONTEXT = Context(train=False)


class Case:
    """A golden ViT, and ours filled with its weights."""

    def __init__(self, path):
        self.golden = Golden(path)
        meta = self.meta = self.golden.meta
        found = TIMM_RULES.read(self.golden.under("param/"))
        assert not found.unknown
        assert not found.problems
        self.arrays = found.arrays
        sizes = {name: meta[name] for name in ("embed_dim", "depth", "heads", "patch", "mlp_ratio", "qkv_bias")}
        self.config = VitConfig(**sizes, class_token=meta["cls_token"])
        self.images = jnp.asarray(self.golden["in/x"].transpose(0, 2, 3, 1))
        self.backbones = {readout: self._filled(readout) for readout in self.config.readouts}
        self.norm, self.head_norm = self._norm("norm"), self._norm("fc_norm")

    def _filled(self, readout: str):
        model = build_backbone(self.config, self.images.shape[1:3], 0.0, Scope(), readout)
        body = {k.removeprefix("backbone/"): v for k, v in self.arrays.items() if k.startswith("backbone/")}
        assign(model, fit_backbone(model, body, size(self.meta["img"])), self.golden.path.name)
        return model

    def _norm(self, name: str):
        """A norm of the file, or what changes nothing where it has none of that name."""
        if f"{name}/scale" not in self.arrays:
            return lambda x: x
        norm = LayerNorm(self.config.embed_dim, Scope(), EPSILON)
        assign(norm, {leaf: self.arrays[f"{name}/{leaf}"] for leaf in ("scale", "bias")})
        return norm

    def forward(self, images):
        """Everything the golden file holds, in our layout."""
        model = self.backbones["map"]
        x = model.embed(images, CONTEXT)
        out = {"embedded": x[0]}
        for number, block in enumerate(model.blocks):
            x, _ = block(x, (SHARED,), CONTEXT)
            out[f"block{number}"] = x[0]
        out["norm"] = self.norm(x[0])
        token = self.config.class_token and "cls" in self.meta["head"]
        pooled = out["norm"][:, 0] if token else out["norm"][:, model.leading :].mean(1)
        pooled = self.head_norm(pooled)
        out["logits"] = pooled @ self.arrays["head/kernel"] + self.arrays["head/bias"].reshape(1, -1)
        return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_output(path):
    case = Case(path)
    got = jax.jit(case.forward)(case.images)
    expected = case.golden.under("out/")
    assert set(expected) <= set(got)
    assert {"embedded", "logits", f"block{case.config.depth - 1}"} <= set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-4, rtol=0, err_msg=name)
    assert case.meta["ln_eps"] == EPSILON


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_taps_are_the_blocks(path):
    """The call that models use gives the blocks checked above, with every readout."""
    case = Case(path)
    for readout, model in case.backbones.items():
        taps = jax.jit(lambda images, model=model: [x for x, _ in model(images, CONTEXT)])(case.images)
        numbers = case.config.tapped if readout in EVERY_STAGE else case.config.tapped[-1:]
        numbers = [*numbers, numbers[-1]] if readout == "map+token" else numbers
        for number, x in zip(numbers, taps, strict=True):
            value = case.golden[f"out/block{number}"]
            value = value[:, :1] if x.shape[2:4] == (1, 1) else value[:, model.leading :]
            np.testing.assert_allclose(x[0].reshape(value.shape), value, atol=1e-4, rtol=0)
