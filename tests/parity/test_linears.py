"""One dense layer with DiTASK's adapter against the originals' DiTASKLinear, with and without task inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters.ditask import DiTASK, SpectralAdapter
from ditask_jax.adapters.plan import LayerPlan
from ditask_jax.linalg import factorize
from ditask_jax.nn import Context, LayerInfo, Linear, Scope
from ditask_jax.nn.linear import SHARED
from ditask_jax.nn.variables import Frozen
from tests.parity.golden import Golden, find

FILES = find("linears*.npz")


def _cases(path):
    return [case for case in Golden(path).meta["cases"] if case["cls"] == "DiTASKLinear"]


CASES = [pytest.param(path, case["name"], id=case["name"]) for path in FILES for case in _cases(path)]


def _parts(case) -> int:
    """The originals split by shape alone."""
    return {2: 2, 3: 3}.get(case["out_features"] / case["in_features"], 1)


class _Case:
    """Inputs of one case in our layout, and the layer that maps them."""

    def __init__(self, golden: Golden, case: dict, execution: str):
        self.arrays = golden.under(f"{case['name']}/")
        self.tasks = tuple(case["tasks"] or ())
        self.streams = (SHARED, *self.tasks) if self.tasks else ()
        self.takes_task_inputs = case["x_tasks"]
        self.name = case["name"]
        kernel = self.arrays["param/linear.weight"].T
        info = LayerInfo(self.name, "fc1", _parts(case), 0, 0, True, False, 1)
        cells = {"theta_shared": case["r"]["shared"], **{f"theta_{t}": case["r"][t] for t in self.tasks}}
        shapes = {name: (count - 1,) for name, count in cells.items()}
        self.plan = LayerPlan(info, kernel.shape, self.streams, shapes, execution)
        self.method = DiTASK(domain="index", dropout=0.0)
        self.factors = factorize(kernel, info.parts)
        self.linear = Linear(*kernel.shape, Scope(), info, use_bias=case["bias"])
        self.linear.kernel = Frozen(jnp.asarray(kernel))

    def values(self) -> dict:
        """What the originals differentiate with respect to."""
        thetas = {"theta_shared": self.arrays["param/lora_shared_A"][0]}
        thetas |= {f"theta_{t}": self.arrays[f"param/lora_tasks_A.{t}"][0] for t in self.tasks}
        inputs = {"x": self.arrays["x"]}
        if self.takes_task_inputs:
            inputs |= {f"x/{t}": self.arrays[f"x/{t}"] for t in self.tasks}
        bias = {"linear.bias": self.arrays["param/linear.bias"]} if "param/linear.bias" in self.arrays else {}
        return jax.tree.map(jnp.asarray, {"thetas": thetas, "inputs": inputs, "bias": bias})

    def adapter(self, thetas) -> SpectralAdapter:
        names = [f"theta_{s}" for s in self.streams or (SHARED,)]
        return SpectralAdapter(self.plan, self.method, names, thetas, self.factors)

    def outputs(self, values, adapter, prepared) -> dict:
        inputs = values["inputs"]
        x = jnp.stack([inputs["x"], *(inputs[f"x/{t}"] for t in self.tasks if self.takes_task_inputs)])
        context = Context(train=False, prepared={self.name: prepared})
        y = adapter(self.linear, x, self.streams or (SHARED,), context)
        if values["bias"]:
            y = y + values["bias"]["linear.bias"].reshape((1,) * (y.ndim - 1) + (-1,))
        return dict(zip(self.streams or (SHARED,), y, strict=True))


@functools.cache
def _computed(path, execution: str):
    """Outputs and gradients of all cases of a file from one program: all spectra in one call, as in a model."""
    golden = Golden(path)
    cases = {case["name"]: _Case(golden, case, execution) for case in _cases(path)}

    def loss(values):
        adapters = {name: case.adapter(values[name]["thetas"]) for name, case in cases.items()}
        prepared = dict(zip(adapters, SpectralAdapter.prepare(list(adapters.values())), strict=True))
        out = {n: case.outputs(values[n], adapters[n], prepared[n]) for n, case in cases.items()}
        total = sum(jnp.sum(y * cases[n].arrays[f"cot/{s}"]) for n, ys in out.items() for s, y in ys.items())
        return total, out

    start = {name: case.values() for name, case in cases.items()}
    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(start)
    return cases, outputs, gradients


def test_a_golden_file_was_found():
    assert CASES


@pytest.mark.parametrize("execution", ["materialised", "factored"])
@pytest.mark.parametrize(("path", "name"), CASES)
def test_ditask_linear(path, name, execution):
    cases, outputs, gradients = _computed(path, execution)
    arrays, got = cases[name].arrays, gradients[name]
    for stream, y in outputs[name].items():
        np.testing.assert_allclose(y, arrays[f"y/{stream}"], atol=1e-4, rtol=0, err_msg=stream)
    found = {"grad/lora_shared_A": got["thetas"]["theta_shared"]}
    found |= {f"grad/lora_tasks_A.{t}": got["thetas"][f"theta_{t}"] for t in cases[name].tasks}
    found |= {f"grad/{key}": value for key, value in (got["inputs"] | got["bias"]).items()}
    assert {key for key in arrays if key.startswith("grad/")} == set(found)
    for key, gradient in found.items():
        expected = arrays[key].reshape(gradient.shape)
        assert np.abs(gradient - expected).max() <= 1e-2 * np.abs(expected).max(), key
