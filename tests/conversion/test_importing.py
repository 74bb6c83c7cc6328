"""Foreign weights in: told by names and shapes, complete, untouched; and everything wrong in one message."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ditask_jax import cli, convert
from ditask_jax.adapters import Full, wrap
from ditask_jax.backbones.backbone_registry import REGISTRY, BackboneEntry
from ditask_jax.backbones.swin import SwinConfig
from ditask_jax.conversion import dino_names, layout_registry, swin_names, vit_names, weight_sources
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.model import create_model
from ditask_jax.nn import flatten, split_state
from ditask_jax.training.experiment import load_backbone, load_trained
from ditask_jax.weight_files import encode_tensors, read_weights
from tests.conversion.cases import DTYPES, ONE_STREAM_LAYOUTS, SIZE, foreign, model_of, our_arrays, write
from tests.parity.golden import Golden, find, size
from tests.parity.methods import method_of, translated

TINY = foreign(swin_names.SWIN_TIMM)


@pytest.mark.parametrize("layout", ONE_STREAM_LAYOUTS, ids=lambda layout: layout.title)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_is_recognised_and_kept(layout, dtype, tmp_path):
    source = write(tmp_path / "source.safetensors", foreign(layout, dtype=DTYPES[dtype]))
    conversion = convert_weights(source)
    assert (conversion.layout, conversion.architecture) == (layout, model_of(layout))
    conversion.write(tmp_path / "out.safetensors")
    arrays, metadata = read_weights(tmp_path / "out.safetensors")
    expected = our_arrays(layout, dtype=DTYPES[dtype])
    assert arrays.keys() == expected.keys()
    for path, array in expected.items():
        assert arrays[path].dtype == array.dtype
        assert arrays[path].tobytes() == array.tobytes(), path
    assert metadata["source"] == "source.safetensors"
    assert len(metadata["source_sha256"]) == 64
    assert len(json.loads(metadata["mean"])) == 3
    if not layout.family.name.startswith("DINO"):  # whose layouts part and join more than names: see test_dino.py
        used = len(arrays) + sum(json.loads(metadata["ignored"]).values())
        assert used + _joined(layout, arrays) == len(foreign(layout))


def _joined(layout, arrays):
    return sum(len(rule.parts) - 1 for p in arrays if (rule := layout.table.theirs_of(p)[1]).parts)


PREFIXES = ["module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "student.", "trunk."]


@pytest.mark.parametrize("seed", range(12))
def test_wrappers_are_taken_off_in_any_order(seed, tmp_path):
    """Of a layout without a prefix of its own, and of one whose names begin with `encoder.` themselves."""
    layout = (swin_names.SWIN_TIMM, swin_names.SWIN_HUGGINGFACE)[seed % 2]
    rng = np.random.default_rng(seed)
    prefix = "".join(rng.choice(PREFIXES, rng.integers(1, 6)))
    tensors = foreign(layout)
    expected = convert_weights(write(tmp_path / "plain.safetensors", tensors))
    wrapped = write(tmp_path / "x.safetensors", {f"{prefix}{name}": array for name, array in tensors.items()})
    conversion = convert_weights(wrapped)
    assert conversion.layout is layout
    assert conversion.arrays.keys() == expected.arrays.keys()
    assert all(np.array_equal(conversion.arrays[path], array) for path, array in expected.arrays.items())


def test_wrappers_inside_names_are_taken_off(tmp_path):
    inner = {
        name.replace("blocks.", "_orig_mod.blocks.").replace("attn.", "_fsdp_wrapped_module.attn.module."): array
        for name, array in TINY.items()
    }
    conversion = convert_weights(write(tmp_path / "x.safetensors", inner))
    assert conversion.layout is swin_names.SWIN_TIMM
    assert not conversion.source.ignored


def test_a_backbone_among_other_parts_is_found_by_its_names(tmp_path):
    tensors = {f"model.backbone.{name}": array for name, array in TINY.items()}
    tensors |= {"model.decode_head.conv.weight": np.ones((2, 3)), "epoch": np.ones(())}
    conversion = convert_weights(write(tmp_path / "x.safetensors", tensors))
    assert conversion.layout is swin_names.SWIN_TIMM
    others = {name: why for name, why in conversion.ignored.items() if "decode_head" in name or name == "epoch"}
    assert others == dict.fromkeys(("model.decode_head.conv.weight", "epoch"), "no part of 'model.backbone'")


def shifted(tensors, by):
    """Other numbers under the same names."""
    return {name: array + np.asarray(by, array.dtype) for name, array in tensors.items()}


def test_one_of_several_sets_is_the_usual_one_or_the_one_asked_for(tmp_path, capsys):
    tensors = {f"net.{name}": array for name, array in TINY.items()}
    tensors |= {f"net_ema.module.{name}": array for name, array in shifted(TINY, 1).items()}
    source = write(tmp_path / "x.safetensors", tensors)
    name = "backbone/patch_embed/bias"
    plain, average = (convert_weights(source, state=state) for state in (None, "net_ema"))
    assert np.array_equal(plain.arrays[name], TINY["patch_embed.proj.bias"])
    assert np.array_equal(average.arrays[name], TINY["patch_embed.proj.bias"] + 1)
    assert "another set of weights (--state=net_ema takes it)" in plain.summary()
    # As the names of the file have it, too.
    assert np.array_equal(convert_weights(source, state="net_ema.module").arrays[name], average.arrays[name])
    out = tmp_path / "out.safetensors"
    assert cli.execute(convert.main, [str(source), str(out), "--state=net_ema"]) == cli.OK
    assert np.array_equal(read_weights(out)[0][name], average.arrays[name])
    assert cli.execute(convert.main, [str(source), str(out), "--state=ema"]) == cli.USER_ERROR
    assert "has no set of weights 'ema'. Known: net net_ema" in capsys.readouterr().err
    twins = {f"{side}.{name}": array for side in ("left", "right") for name, array in TINY.items()}
    with pytest.raises(WeightsError, match=r"several sets of weights: left right; choose one by --state=NAME"):
        convert_weights(write(tmp_path / "twins.safetensors", twins))


class FakeTensor:
    """As much of a PyTorch tensor as choosing needs."""

    def __init__(self, array):
        self.array = array

    def numel(self):
        return self.array.size

    def element_size(self):
        return self.array.itemsize


FakeTensor.__module__ = "torch"


@pytest.fixture
def pickled(tmp_path, monkeypatch):
    """Converts what `torch.save` would have been given."""

    def convert_content(content, **options):
        path = tmp_path / "checkpoint.pth"
        path.write_bytes(b"\x80\x02}" + b" " * 10**6)
        monkeypatch.setattr(weight_sources, "load_pickle", lambda *_: content)
        monkeypatch.setattr(weight_sources, "to_numpy", lambda name, tensor, where: tensor.array)
        return convert_weights(path, **options)

    return convert_content


STATE = {name: FakeTensor(array) for name, array in TINY.items()}
EMA = {name: FakeTensor(array) for name, array in shifted(TINY, 1).items()}
LOOSE = FakeTensor(np.float32(0.5))
MOMENTS = {"state": {0: {"exp_avg": LOOSE}}, "param_groups": [{"params": [0]}], "named": {"a": LOOSE}}


@pytest.mark.parametrize(
    ("content", "state", "expected"),
    [
        (STATE, None, 0),
        ({"state_dict": {"model": {"state_dict": STATE}}}, None, 0),
        ({"params": STATE, "epoch": 3}, None, 0),
        ({"model": STATE, "loss": LOOSE, "optimizer": MOMENTS}, None, 0),
        ({"mystery": STATE, "optimizer": MOMENTS}, None, 0),
        ({"state_dict_ema": EMA, "state_dict": STATE}, None, 0),
        ({"state_dict_ema": EMA, "state_dict": STATE}, "state_dict_ema", 1),
        ({"model_ema": {"module": EMA}, "model": STATE}, None, 0),
        ({"model_ema": {"module": EMA}, "model": STATE}, "model_ema", 1),
        ({"state_dict": {"ema": EMA, "model": {"net": STATE}}}, None, 0),
        ({"state_dict": {"ema": EMA, "model": {"net": STATE}}}, "ema", 1),
        ({"state_dict_ema": EMA, "optimizer": MOMENTS}, None, 1),
        ({"netEma": EMA, "net_avg": EMA, "plain": STATE}, None, 0),
        ({"model_optimised": STATE, "optim": MOMENTS["named"]}, None, 0),
        ({"student": EMA, "teacher": STATE, "center": LOOSE}, None, 0),
        ({"student": EMA, "teacher": STATE}, "student", 1),
        ({"teacher": {"backbone": {f"module.{n}": t for n, t in STATE.items()}, "head": {"w": LOOSE}}}, None, 0),
        ({f"module.{prefix}.{n}": t for prefix, s in (("a", STATE), ("a_ema", EMA)) for n, t in s.items()}, None, 0),
        ({f"module.{prefix}.{n}": t for prefix, s in (("a", STATE), ("a_ema", EMA)) for n, t in s.items()}, "a_ema", 1),
    ],
)
def test_containers_in_containers_and_averages_beside_the_weights(content, state, expected, pickled):
    conversion = pickled(content, state=state)
    found = conversion.arrays["backbone/patch_embed/bias"]
    assert np.array_equal(found, (STATE, EMA)[expected]["patch_embed.proj.bias"].array)
    assert conversion.layout is swin_names.SWIN_TIMM
    if "model_ema" in content and state is None:
        assert conversion.ignored["model_ema.module"] == "another set of weights (--state=model_ema.module takes it)"
    if "optimizer" in content:
        assert conversion.ignored["optimizer"] == "not weights but the state of a training run"


def test_what_cannot_be_chosen_is_named(pickled):
    with pytest.raises(WeightsError, match=r"several sets of weights: left right; choose one by --state=NAME"):
        pickled({"left": STATE, "right": STATE})
    with pytest.raises(WeightsError, match=r"has no set of weights 'avg'. Known: model model_ema"):
        pickled({"model": STATE, "model_ema": EMA}, state="avg")
    with pytest.raises(WeightsError, match=r"holds no state dict: entries optimizer epoch"):
        pickled({"optimizer": MOMENTS, "epoch": 3})


def test_a_base_model_has_no_prefix(tmp_path):
    layout = swin_names.SWIN_HUGGINGFACE
    tensors = {n.removeprefix("swin."): a for n, a in foreign(layout).items() if not n.startswith("classifier")}
    conversion = convert_weights(write(tmp_path / "x.safetensors", tensors))
    assert conversion.metadata["prefixed"] == "no"
    assert "classes" not in conversion.metadata


def test_a_name_with_and_without_the_prefix(tmp_path):
    layout = swin_names.SWIN_HUGGINGFACE
    tensors = foreign(layout)
    tensors["layernorm.weight"] = tensors["swin.layernorm.weight"]
    with pytest.raises(WeightsError, match=r"'layernorm.weight' is there with and without 'swin.'"):
        convert_weights(write(tmp_path / "x.safetensors", tensors))


def test_files_without_blocks_are_told(tmp_path):
    """Enough to be recognised, not enough to tell a size."""
    kept = ("layers.0.blocks.0.attn.qkv.weight", "layers.1.downsample.reduction.weight", "patch_embed.proj.weight")
    for names in (kept, kept[:2]):
        source = write(tmp_path / "x.safetensors", {name: TINY[name] for name in names})
        with pytest.raises(WeightsError, match="the architecture cannot be told: there is no tensor for"):
            convert_weights(source)


def _broken(change):
    tensors = dict(TINY)
    change(tensors)
    return tensors


def _poison(tensors):
    tensors["norm.bias"] = np.full_like(tensors["norm.bias"], np.nan)


BLOCK = "layers.1.blocks.0"
PROBLEMS = {
    "1 missing: layers.1.blocks.0.norm1.weight": lambda t: t.pop(f"{BLOCK}.norm1.weight"),
    "1 of unknown name: layers.1.blocks.0.extra": lambda t: t.update({f"{BLOCK}.extra": np.zeros(2, np.float32)}),
    r"patch_embed.proj.bias \(9,\) \(expected \(8,\)\)": lambda t: t.update(
        {"patch_embed.proj.bias": np.zeros(9, "f")}
    ),
    r"1 not floating-point: norm.weight \(int64\)": lambda t: t.update({"norm.weight": np.zeros(64, np.int64)}),
    "1 with NaN or infinity: norm.bias": _poison,
}


@pytest.mark.parametrize("message", PROBLEMS)
def test_problems_are_named(message, tmp_path):
    source = write(tmp_path / "x.safetensors", _broken(PROBLEMS[message]))
    with pytest.raises(WeightsError, match=message):
        convert_weights(source)


def test_all_problems_are_in_one_report(tmp_path):
    tensors = dict(TINY)
    for change in PROBLEMS.values():
        change(tensors)
    with pytest.raises(WeightsError) as error:
        convert_weights(write(tmp_path / "x.safetensors", tensors))
    text = str(error.value)
    assert text.count("\n") == 0
    for word in ("missing", "unknown name", "another shape", "not floating-point", "NaN"):
        assert word in text


def test_an_unknown_size_names_the_nearest(tmp_path):
    tensors = {n: a for n, a in TINY.items() if not n.startswith("layers.1.blocks.1")}
    message = (
        r"'swin_test' is the nearest known architecture; the file has depths \(1, 1, 1, 2\) \(there \(1, 2, 1, 2\)\)"
    )
    with pytest.raises(WeightsError, match=message):
        convert_weights(write(tmp_path / "x.safetensors", tensors))


def test_an_architecture_that_was_asked_for(tmp_path):
    source = write(tmp_path / "x.safetensors", TINY)
    assert convert_weights(source, "swin_test").architecture == "swin_test"
    with pytest.raises(WeightsError, match="'swin_test_deep' was asked for, but the file has embed_dim 8"):
        convert_weights(source, "swin_test_deep")
    with pytest.raises(WeightsError, match="'vit_test' is no Swin"):
        convert_weights(source, "vit_test")
    with pytest.raises(ConfigError, match="Did you mean 'swin_test'"):
        convert_weights(source, "swin_tst")


def test_unknown_layouts_are_refused(tmp_path):
    source = write(tmp_path / "x.safetensors", {"conv1.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(WeightsError, match=r"of no layout that is known here.* conv1.weight.*official Swin, timm Swin"):
        convert_weights(source)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (vit_names.VIT_TIMM, "dist_token"),
        (vit_names.VIT_TIMM, "norm_pre.weight"),
        (vit_names.VIT_TIMM, "reg_token"),
        (dino_names.DINOV2_OFFICIAL, "blocks.0.mlp.w12.weight"),
        (dino_names.DINOV3_TIMM, "pos_embed"),
        (swin_names.SWIN_TIMM, "layers.0.blocks.0.attn.logit_scale"),
    ],
)
def test_variants_of_known_models_are_told(layout, name, tmp_path):
    source = write(tmp_path / "x.safetensors", foreign(layout) | {name: np.zeros(1, np.float32)})
    with pytest.raises(WeightsError, match=rf"a variant .* those of {layout.title}, but it also has {name}\."):
        convert_weights(source)


def test_oblong_positions_need_the_image_size(tmp_path):
    tensors = foreign(vit_names.VIT_TIMM)
    tensors["pos_embed"] = np.zeros((1, 1 + 4 * 2, 16), np.float32)
    source = write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(WeightsError, match=r"x\.safetensors' \(timm ViT\): .* give --image-size HEIGHT,WIDTH"):
        convert_weights(source)
    assert json.loads(convert_weights(source, image_size=(64, 32)).metadata["image_size"]) == [64, 32]
    with pytest.raises(WeightsError, match=r"pos_embed \(9, 16\) \(expected \(17, 16\)\)"):
        convert_weights(source, image_size=64)
    assert json.loads(convert_weights(_square(tmp_path)).metadata["image_size"]) == [SIZE, SIZE]


@pytest.mark.parametrize(
    "layout", [swin_names.SWIN_OFFICIAL, swin_names.SWIN_TIMM, swin_names.SWIN_HUGGINGFACE], ids=lambda x: x.title
)
def test_oblong_windows_are_refused_without_advice_that_does_not_help(layout, tmp_path):
    tensors = foreign(layout)
    for name in [name for name in tensors if name.endswith("relative_position_bias_table")]:
        tensors[name] = np.zeros((7 * 3, tensors[name].shape[1]), np.float32)  # of windows of 4x2
    source = write(tmp_path / "x.safetensors", tensors)
    for image_size in (None, (64, 32)):
        with pytest.raises(WeightsError, match=r"21 rows.*windows of another height than width are not supp") as caught:
            convert_weights(source, image_size=image_size)
        assert "--image-size" not in str(caught.value)


def _square(folder):
    return write(folder / "square.safetensors", foreign(vit_names.VIT_TIMM))


@pytest.mark.parametrize("path", find("swin_plain"), ids=lambda p: p.stem)
def test_recorded_checkpoints_are_recognised(path, tmp_path, monkeypatch):
    golden = Golden(path)
    meta = golden.meta
    sizes = meta["embed_dim"], tuple(meta["depths"]), tuple(meta["heads"])
    config = SwinConfig(*sizes, window=meta["window"], mlp_ratio=int(meta.get("mlp_ratio", 4)))
    monkeypatch.setitem(REGISTRY, "recorded", BackboneEntry(config))
    tensors = {name: np.ascontiguousarray(array) for name, array in golden.under("param/").items()}
    conversion = convert_weights(write(tmp_path / "x.safetensors", tensors), "recorded")
    assert conversion.layout is swin_names.SWIN_OFFICIAL
    found, _, _ = swin_names.SWIN_OFFICIAL.read(tensors)
    assert not found.unknown
    assert conversion.arrays.keys() == found.arrays.keys()
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(conversion.arrays[name], array)


@pytest.mark.parametrize("path", find("ditask", "mtlora"), ids=lambda p: p.stem)
def test_training_checkpoints(path, tmp_path, monkeypatch):
    """Recorded models of the reference implementations: converted and loaded, ours gives what theirs gave."""
    golden = Golden(path)
    meta = golden.meta
    sizes = meta["embed_dim"], tuple(meta["depths"]), tuple(meta["heads"])
    config = SwinConfig(*sizes, window=meta["window"], mlp_ratio=int(meta.get("mlp_ratio", 4)))
    monkeypatch.setitem(REGISTRY, "recorded", BackboneEntry(config, (0, 0, 0), (1 / 255, 1 / 255, 1 / 255)))
    tensors = {name: np.ascontiguousarray(array) for name, array in golden.under("param/").items()}
    conversion = convert_weights(write(tmp_path / "x.safetensors", tensors), "recorded")
    assert conversion.layout.name == meta["kind"].split("_")[0]
    everything = translated(tensors, meta["kind"])
    # Exactly the parameters that never get a gradient are left out, as far as they belong to the backbone.
    assert set(conversion.ignored) == {n for n in meta["params_without_grad"] if "lora" in n}
    dead = set(translated({name: tensors[name] for name in conversion.ignored}, meta["kind"]))
    assert set(conversion.arrays) == set(everything) - dead
    conversion.write(tmp_path / "ours.safetensors")
    entries = [SimpleNamespace(name=name, num_outputs=meta["num_output"][name]) for name in meta["tasks"]]
    model = create_model("recorded", entries, size(meta["img"]), widths=meta["decoder_channels"])
    with pytest.raises(WeightsError, match="call load_backbone with this file and wrap"):
        load_trained(model, tmp_path / "ours.safetensors")
    load_backbone(model, tmp_path / "ours.safetensors")
    wrap(model, method_of(meta, "auto"))
    load_trained(model, tmp_path / "ours.safetensors")
    compared = 0
    for name, value in flatten(split_state(model).trainable).items():
        np.testing.assert_array_equal(np.asarray(value), everything[name].astype(np.float32), err_msg=name)
        compared += "/adapter/" in name
    assert compared == sum("/adapter/" in name for name in conversion.arrays) > 0
    other = create_model("recorded", entries, size(meta["img"]), widths=meta["decoder_channels"])
    load_backbone(other, tmp_path / "ours.safetensors")
    wrap(other, Full())
    with pytest.raises(WeightsError, match=r"was not trained as the model is wrapped: .* without a place in the model"):
        load_trained(other, tmp_path / "ours.safetensors")


def test_layouts_of_a_family():
    assert layout_registry.layout_of("timm", "swin_test") is swin_names.SWIN_TIMM
    with pytest.raises(WeightsError, match=r"unknown name 'official'. Known: timm huggingface"):
        layout_registry.layout_of("official", "vit_test")


def test_the_command(tmp_path, capsys):
    source = write(tmp_path / "in.safetensors", TINY)
    out = tmp_path / "out.safetensors"
    options = ["--mean=0.5,0.25,1", "--std=1,2,3"]
    assert cli.execute(convert.main, [str(source), str(out), *options]) == cli.OK
    printed = capsys.readouterr().out
    assert "timm Swin weights of swin_test" in printed
    assert f"written: {out}" in printed
    metadata = read_weights(out)[1]
    assert (json.loads(metadata["mean"]), json.loads(metadata["std"])) == ([0.5, 0.25, 1.0], [1.0, 2.0, 3.0])
    wrong = [
        ([str(source), str(source)], "is the source itself"),
        ([str(source), "x.pth"], "expected a file name that ends in .safetensors"),
        ([str(tmp_path / "no.safetensors"), str(out)], "no such file. Did you mean"),
        ([str(tmp_path), str(out)], "is a folder; give a file of it: in.safetensors"),
        ([str(out), str(tmp_path / "again.safetensors")], "is a weight file of this package already"),
        ([str(source), str(out), "--image-size=0"], "expected a side in pixels"),
        ([str(source), str(out), "--mean=1,2"], "expected three numbers"),
        ([str(source), str(out), "--std=1,2,0"], "expected three numbers"),
        ([str(source), str(out), "--architecture=swin_tst"], "Did you mean 'swin_test'"),
    ]
    for arguments, message in wrong:
        assert cli.execute(convert.main, arguments) == cli.USER_ERROR
        text = capsys.readouterr().err
        assert message in text
        assert text.count("\n") == 1


def test_nothing_is_written_on_a_mistake(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(encode_tensors({"a": np.zeros(2, np.float32)}, {}))
    before = sorted(tmp_path.iterdir())
    assert (
        cli.execute(convert.main, [str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors")]) == cli.USER_ERROR
    )
    assert sorted(tmp_path.iterdir()) == before
