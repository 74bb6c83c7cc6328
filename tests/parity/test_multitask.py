"""The multi-task models (DiTASK as released, MTLoRA, full fine-tuning) against reference code, inside and out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange

from ditask_jax.nn import flatten
from ditask_jax.training.optim.optimizer import make_optimizer
from tests.parity.golden import Golden, find
from tests.parity.multitask import Case

FILES = find("ditask", "mtlora", "full")
OUTPUT_ATOL = 1e-4


def _cases():
    """Files and ways of computing: by default the first file of a system one way, the full tests do all both ways.

    The ways agree (test_method_laws.py), and windows of either size are compared in test_swin.py.
    """
    first = next((path for path in FILES if path.stem.startswith("ditask")), None)
    for path in FILES:
        if not path.stem.startswith("ditask"):
            yield pytest.param((path, "auto"), id=f"{path.stem}-auto")
            continue
        for execution in ("materialised", "factored"):
            later = () if (path, execution) == (first, "materialised") else pytest.mark.slow
            yield pytest.param((path, execution), id=f"{path.stem}-{execution}", marks=later)


@pytest.fixture(scope="module")
def case(request):
    path, execution = request.param
    return Case(Golden(path), execution)


every_case = pytest.mark.parametrize("case", list(_cases()), indirect=True)


def _strides(text: str) -> tuple[int, int]:
    """The strides in a text of the file's meta such as `final[:, :, ::7, ::5]`."""
    rows, columns = re.findall(r"::(\d+)", text)
    return int(rows), int(columns)


def _nchw(array):
    return np.asarray(array).transpose(0, 3, 1, 2)


@every_case
def test_outputs_of_every_stage(case):
    golden = case.golden
    aux, _ = case.evaluated
    compared = 0
    for task, maps in aux["features"].items():
        for stage, value in enumerate(maps):
            name = f"out/stage{stage}/{task}"
            if name not in golden and case.meta["kind"].startswith("full"):
                name = f"out/stage{stage}/shared"
            flat = rearrange(np.asarray(value), "b h w c -> b (h w) c")
            np.testing.assert_allclose(flat, golden[name], atol=OUTPUT_ATOL, rtol=0, err_msg=name)
            compared += 1
    for task, maps in aux["necks"].items():
        for stage, value in enumerate(maps):
            if (name := f"out/downsampler/{task}/{stage}") in golden:
                np.testing.assert_allclose(_nchw(value), golden[name], atol=OUTPUT_ATOL, rtol=0, err_msg=name)
    for task, logits in aux["final"].items():
        logits = _nchw(logits)
        if (name := f"out/final/{task}") not in golden:
            name = f"out/final_sub/{task}"
            rows, columns = _strides(golden.meta["final_sub"])
            logits = logits[:, :, ::rows, ::columns]
        np.testing.assert_allclose(logits, golden[name], atol=OUTPUT_ATOL, rtol=0, err_msg=name)
        compared += 1
    assert compared == len(case.meta["tasks"]) * (len(case.meta["depths"]) + 1)


@every_case
def test_losses(case):
    aux, _ = case.evaluated
    for task, value in aux["losses"].items():
        np.testing.assert_allclose(value, case.golden[f"loss/mtl/{task}"], rtol=1e-5, err_msg=task)
    np.testing.assert_allclose(aux["mtl"], case.golden["loss/mtl"], rtol=1e-5)
    np.testing.assert_allclose(aux["simple"], case.golden["loss/simple"], rtol=1e-5)


@every_case
@pytest.mark.parametrize("loss", ["simple", "mtl"])
def test_gradients(case, loss):
    got = case.evaluated[1][loss]
    expected = dict(case.ours(name, array) for name, array in case.golden.under(f"grad/{loss}/").items())
    assert expected
    noise = {case.ours(n, case.golden[f"grad/{loss}/{n}"])[0]: v for n, v in case.meta["grad_noise"][loss].items()}
    for path, gradient in expected.items():
        fp32_noise, largest = noise.get(path, (0.0, np.abs(gradient).max()))
        # Ten times the reference's own float32 noise, and never looser than one per cent of the largest entry.
        limit = min(max(10 * fp32_noise, 1e-3 * largest), 1e-2 * largest)
        difference = np.abs(np.asarray(got[path]) - gradient).max()
        assert difference <= limit, f"{path}: {difference:.3g} > {limit:.3g} (largest entry {largest:.3g})"


@every_case
def test_parameters_without_gradient_are_not_created(case):
    created = set(flatten(case.trainable))
    for name in case.meta["params_without_grad"]:
        path, _ = case.ours(name, case.golden[f"param/{name}"])
        assert path not in created
    adapters = {path for path in created if "/adapter/" in path}
    with_gradient = {case.ours(n, a)[0] for n, a in case.golden.under("grad/mtl/").items()}
    assert adapters <= with_gradient


def _train(case):
    """The reference implementations' AdamW run: same batch every step, batch statistics, no dropout."""
    train = case.meta["train"]
    settings = {
        "name": "adamw",
        "betas": tuple(train["betas"]),
        "eps": train["eps"],
        "weight_decay": train["weight_decay"],
        "clip_norm": train["clip_global_norm"],
        "decay_thetas": True,
        "decay_bias_tables": True,
    }
    optimizer = make_optimizer(settings, lambda step: train["lr"], case.parts.declared)

    @jax.jit
    def step(trainable, opt_state, frozen):
        loss = lambda t: case.loss(t, jnp.array([0.0, 1.0]), frozen, train=True)
        (total, aux), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        updates, opt_state = optimizer.update(grads, opt_state, trainable)
        return optax.apply_updates(trainable, updates), opt_state, total, optax.tree.norm(grads), aux

    trainable, opt_state = case.trainable, optimizer.init(case.trainable)
    for _ in range(train["steps"]):
        trainable, opt_state, *rest = step(trainable, opt_state, case.parts.frozen)
        yield trainable, *rest


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_training_run_and_its_settings_come_together(path):
    golden = Golden(path)
    assert golden.has("train/") == ("train" in golden.meta)


# Some files hold no training run; the forward and gradient tests above cover them.
@pytest.mark.slow  # .ci/run and the full tests, with the compiler's defaults
@pytest.mark.parametrize("path", [path for path in FILES if Golden(path).has("train/")], ids=lambda p: p.stem)
def test_training_steps(path):
    golden = Golden(path)
    case = Case(golden, "factored")
    rows, columns = _strides(case.meta["train"]["step0_final_sub"])
    for number, (trainable, total, norm, aux) in enumerate(_train(case), 1):
        np.testing.assert_allclose(total, golden["train/loss"][number - 1], rtol=1e-4)
        # The first gradient is that of equal parameters. Later ones follow Adam's first steps, lr * sign(g), which turn
        # rounding into lr where g is zero but for noise, and the L1 loss of normals has kinks: while losses stay within
        # 2e-5, the norm was seen to drift to 4e-3 (DiTASK) and 1.2e-2 (MTLoRA) in five steps.
        rtol = 1e-4 if number == 1 else 2e-2
        np.testing.assert_allclose(norm, golden["train/grad_norm_before_clip"][number - 1], rtol=rtol)
        if number == 1:
            for task in case.meta["tasks"]:
                got = _nchw(aux["final"][task])[:, :, ::rows, ::columns]
                np.testing.assert_allclose(got, golden[f"train/step0_final/{task}"], atol=OUTPUT_ATOL, rtol=0)
            statistics = flatten(aux["stats"])
            for name, array in golden.under("train/bn_after_1_forward/").items():
                path, value = case.ours(name, array)
                np.testing.assert_allclose(statistics[path], value, atol=1e-5, rtol=1e-4, err_msg=name)
        flat = flatten(trainable)
        for name, array in golden.under(f"train/after_{number}/").items():
            path, value = case.ours(name, array)
            difference = np.abs(np.asarray(flat[path]) - value)
            if number == 1:
                assert difference.max() <= 1e-4, name
                continue
            # From the second step on a pixel whose L1 normals loss sits at its kink may take the other sign, and Adam
            # moves weights of tiny gradient by lr whichever sign rounding gives it. Such weights are few, and none can
            # be further off than two opposite walks; the losses above bound what they do together. MTLoRA's
            # small matrices and what belongs to the normals are hit most: 5 % of one were seen to be 2e-4 off.
            small = case.meta["kind"].startswith("mtlora") and ("lora_" in name or "normals" in name)
            few = case.meta["train"]["lr"] / 2 if small else 1e-4
            assert np.quantile(difference, 0.95) <= few, name
            assert difference.max() <= 2 * case.meta["train"]["lr"] * (number - 1), name
    assert golden.under(f"train/after_{case.meta['train']['steps']}/")
