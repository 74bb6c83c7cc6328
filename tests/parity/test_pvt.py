"""Both generations of PVT against reference implementations: patch embeddings, blocks, norms, features, logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from ditask_jax.backbones import build_backbone
from ditask_jax.backbones.blocks import EVERY_STAGE, WITH_TOKEN
from ditask_jax.backbones.pvt import PvtConfig, PvtV2Config
from ditask_jax.backbones.pyramid import EPSILON, to_map, to_tokens
from ditask_jax.conversion.pvt_names import V1, V2
from ditask_jax.nn import Context, LayerNorm, Scope
from ditask_jax.nn.linear import SHARED
from ditask_jax.weights import assign, fit_backbone
from tests.parity.golden import Golden, find, size

FILES = find("pvt_v1", "pvt_v2")
CONTEXT = Context(train=False)


class Case:
    """A golden PVT, ours filled with its weights, with every readout."""

    def __init__(self, path):
        self.golden = Golden(path)
        meta = self.meta = self.golden.meta
        self.first = meta["kind"] == "pvt_v1"
        found = (V1 if self.first else V2).read(self.golden.under("param/"))
        assert not found.unknown
        assert not found.problems
        sizes = [tuple(meta[name]) for name in ("embed_dims", "depths", "heads", "mlp_ratios", "sr_ratios")]
        options = {"qkv_bias": meta["qkv_bias"]}
        if not self.first:
            options["linear"] = meta.get("linear", False)
        self.config = (PvtConfig if self.first else PvtV2Config)(*sizes, **options)
        self.arrays = found.arrays
        self.images = jnp.asarray(self.golden["in/x"].transpose(0, 2, 3, 1))
        self.backbones = {readout: self._filled(readout) for readout in self.config.readouts}
        if self.first:
            self.norm = LayerNorm(self.config.channels[-1], Scope(), EPSILON)
            assign(self.norm, {name: self.arrays[f"norm/{name}"] for name in ("scale", "bias")})

    def _filled(self, readout: str):
        """Ours for the images at hand; position tables made for other sizes are resized."""
        model = build_backbone(self.config, self.images.shape[1:3], 0.0, Scope(), readout)
        body = {k.removeprefix("backbone/"): v for k, v in self.arrays.items() if k.startswith("backbone/")}
        assign(model, fit_backbone(model, body, size(self.meta["img_model"])), self.golden.path.name)
        return model

    def forward(self, images):
        """Everything the golden file holds, in our layout."""
        model, out = self.backbones["token" if self.first else "map"], {}
        x = images[None]
        for number, stage in enumerate(model.stages, 1):
            x = to_tokens(stage.patch_embed(x, CONTEXT))
            out[f"patch_embed{number}"] = x[0]
            x = stage.before(x)
            for block in stage.blocks:
                x, _ = block(x, (SHARED,), CONTEXT)
            out[f"block{number}"] = x[0]
            x = stage.behind(x)
            if not self.first:
                out[f"norm{number}"] = x[0]
            if number < len(model.stages):
                x = to_map(x, stage.grid)
        pooled = self.norm(x[0])[:, 0] if self.first else x[0].mean(1)
        out["logits"] = pooled @ self.arrays["head/kernel"] + self.arrays["head/bias"].reshape(1, -1)
        if self.first:
            taps = self.backbones["map"](images, CONTEXT)
            out |= {f"dense/stage{i}": rearrange(x[0], "b h w c -> b c h w") for i, (x, _) in enumerate(taps, 1)}
        return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_output(path):
    case = Case(path)
    got = jax.jit(case.forward)(case.images)
    expected = case.golden.under("out/")
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-4, rtol=0, err_msg=name)
    assert case.meta["ln_eps_blocks"] == EPSILON


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_taps_are_the_stages(path):
    """The call that models use gives the stages checked above, with every readout."""
    case = Case(path)
    last = len(case.config.channels)
    expected = lambda number: case.golden[f"out/{'block' if case.first else 'norm'}{number}"]
    for readout in case.config.readouts:
        model = case.backbones[readout]
        taps = jax.jit(lambda images, model=model: [x for x, _ in model(images, CONTEXT)])(case.images)
        numbers = [*range(1, last + 1), last] if readout == "map+token" else [*range(1, last + 1)]
        numbers = numbers if readout in EVERY_STAGE else [last]
        for number, x in zip(numbers, taps, strict=True):
            value = expected(number)
            if case.first and number == last:
                token = x.shape[2:4] == (1, 1)
                value = value[:, :1] if token else value[:, 1:]
                if readout not in WITH_TOKEN:  # which no token has had a part in
                    value = to_rows(case.golden[f"out/dense/stage{number}"])
            np.testing.assert_allclose(rearrange(x[0], "b h w c -> b (h w) c"), value, atol=1e-4, rtol=0)


def to_rows(array):
    return rearrange(array, "b c h w -> b (h w) c")
