"""ONNX programs, run by onnxruntime; in an environment with jax2onnx, see `extras` of launch/test_full.sh."""

import importlib.util
import os

import jax
import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax import cli, export
from ditask_jax.backbones import list_models
from ditask_jax.conversion.exporting import export_program
from ditask_jax.conversion.weight_sources import check_program
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.nn.context import Context
from ditask_jax.nn.state import split_state

MISSING = [name for name in ("jax2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: pip install {' '.join(MISSING)}")
# What jax2onnx imports says on its way, about itself.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")

SMALL = [
    *(("swin_test", method) for method in ("DiTASK", "MTLoRA", "Adapter", "DoRA")),
    *((name, "DiTASK") for name in ("pvt_test", "pvt_v2_test", "vit_test")),
]
DINOV2 = [name for name in list_models() if name == "vit_small_patch14_dinov2"]
LARGE = [("swin_tiny_patch4_window7", 224), *((name, 112) for name in ["vit_small_patch14", *DINOV2])]


def trained(backbone, method, tasks, size, **options):
    """A merged model of which every trained number has been moved."""
    model = dj.create_model(backbone, dj.create_tasks(tasks, dataset="pascal"), image_size=size, **options)
    dj.wrap(model, getattr(dj, method)())
    parts = split_state(model)
    draw = np.random.default_rng(0)
    move = lambda value: value + 0.02 * draw.standard_normal(value.shape).astype(value.dtype)
    return dj.merge(parts.merge(jax.tree.map(move, parts.trainable), parts.frozen, parts.stats))


def check(model, file, capfd):
    """Same outputs as JAX's, by the names of the tasks, for more than one size of batch."""
    import onnxruntime

    export_program(file, model, kind="onnx")
    capfd.readouterr()
    session = onnxruntime.InferenceSession(str(file))
    assert capfd.readouterr().err == "", "onnxruntime has something to complain of"
    assert [found.name for found in session.get_inputs()] == ["images"]
    names = [found.name for found in session.get_outputs()]
    assert names == sorted(model.task_names)
    program = jax.jit(lambda images: model(images, Context(train=False)))
    for count in (1, 3):
        images = np.random.default_rng(count).integers(0, 256, (count, *model.backbone.image_size, 3)).astype(np.uint8)
        expected, found = program(images), dict(zip(names, session.run(None, {"images": images}), strict=True))
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)
    # The converter knows from which line of which file an operation comes, and could write that down.
    assert os.path.dirname(dj.__file__).encode() not in file.read_bytes()


@needs_onnx
@pytest.mark.parametrize(("backbone", "method"), SMALL)
def test_small_models_of_every_family(backbone, method, tmp_path, capfd):
    model = trained(backbone, method, "semseg+sal", 64, widths=(4, 4, 4, 4))
    check(model, tmp_path / "x.onnx", capfd)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), LARGE)
def test_models_that_people_use(backbone, size, tmp_path, capfd):
    check(trained(backbone, "DiTASK", "semseg+human_parts+sal+normals", size), tmp_path / "x.onnx", capfd)


@needs_onnx
def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    import jax2onnx

    def refuse(*_, **__):
        raise NotImplementedError("no handler for the primitive\n'svd'")

    monkeypatch.setattr(jax2onnx, "to_onnx", refuse)
    model = trained("swin_test", "Frozen", "sal", 64, widths=(4, 4, 4, 4))
    line = r"^export: jax2onnx cannot write it \(NotImplementedError: no handler for the primitive 'svd'\); --program"
    with pytest.raises(WeightsError, match=line):
        export_program(tmp_path / "x.onnx", model, kind="onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_what_is_asked_for_in_vain(tmp_path, monkeypatch, capsys):
    """Before the run is read: of these there is none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = [f"--workdir={tmp_path}", f"--out={tmp_path / 'x.onnx'}"]
    for kind, line in (
        ("--program=onnx", "export: --program=onnx: the package jax2onnx is not installed; "),
        ("--program=onx", "export: --program: unknown name 'onx'. Did you mean 'onnx'? Known: stablehlo onnx"),
        ("--program", f"export: '{tmp_path / 'x.onnx'}': expected a file name that ends in .stablehlo"),
    ):
        assert cli.execute(export.main, [*arguments, kind]) == cli.USER_ERROR
        (found,) = capsys.readouterr().err.splitlines()
        assert found.startswith(line)
    with pytest.raises(ConfigError):
        check_program("onnx")
