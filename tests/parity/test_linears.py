"""One dense layer with DiTASK's or MTLoRA's adapter against the reference layers, with and without task inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ditask_jax.adapters import DiTASK, LayerPlan, MTLoRA
from ditask_jax.factors import factorize
from ditask_jax.nn import Context, LayerInfo, Linear, Scope
from ditask_jax.nn.linear import SHARED
from ditask_jax.nn.state import FrozenParam
from tests.parity.golden import Golden, find
from tests.parity.methods import by_task

FILES = find("linears")
WAYS = {"DiTASKLinear": ("materialised", "factored"), "MTLoRALinear": ("beside",)}


def _cases(path, cls: str):
    return [case for case in Golden(path).meta["cases"] if case["cls"] == cls]


def _every_case():
    for path in FILES:
        for case in Golden(path).meta["cases"]:
            for way in WAYS[case["cls"]]:
                # The ways agree (test_method_laws.py); the full tests and .ci/run compare both.
                later = pytest.mark.slow if way == "factored" else ()
                yield pytest.param(
                    path, case["cls"], case["name"], way, id=f"{path.stem}-{case['name']}-{way}", marks=later
                )


class _Case:
    """Inputs of one case in our layout, and the layer that maps them."""

    def __init__(self, golden: Golden, case: dict, way: str):
        self.arrays = golden.under(f"{case['name']}/")
        self.tasks = tuple(case["tasks"] or ())
        self.streams = (SHARED, *self.tasks) if self.tasks else ()
        self.takes_task_inputs = case["x_tasks"]
        self.name = case["name"]
        kernel = self.arrays["param/linear.weight"].T
        # DiTASK's originals split by shape alone.
        parts = {2: 2, 3: 3}.get(case["out_features"] / case["in_features"], 1) if way != "beside" else 1
        info = LayerInfo(self.name, "fc1", parts, 0, 0, True, False, 1)
        self.parameters = self._diffeomorphic(case) if way != "beside" else self._low_rank()
        shapes = {name: array.shape for name, (_, array) in self.parameters.items()}
        plan = LayerPlan(info, kernel.shape, self.streams, shapes, way)
        self.linear = Linear(*kernel.shape, Scope(), info, use_bias=case["bias"])
        self.linear.kernel = FrozenParam(jnp.asarray(kernel))
        if case["bias"]:
            self.linear.bias = nnx.Param(jnp.asarray(self.arrays["param/linear.bias"]))
        self.linear.adapter = self._method(case, way).attach(self.linear, plan, factorize(kernel, parts), 0)
        assert set(self.parameters) == set(nnx.to_pure_dict(nnx.state(self.linear.adapter, nnx.Param)))

    def _method(self, case: dict, way: str):
        if way != "beside":
            return DiTASK(domain="index", dropout=0.0, execution=way)
        scales = {"shared_scale": case["shared_scale"], "task_scale": by_task(case["task_scale"], self.tasks)}
        return MTLoRA(mode=case["mode"], dropout=0.0, **scales)

    def _diffeomorphic(self, case: dict) -> dict:
        """Our name of each parameter to theirs and its array in our layout."""
        names = {"theta_shared": "lora_shared_A", **{f"theta_{t}": f"lora_tasks_A.{t}" for t in self.tasks}}
        found = {ours: (theirs, self.arrays[f"param/{theirs}"][0]) for ours, theirs in names.items()}
        for name, (_, theta) in found.items():
            assert theta.size == case["r"][name.removeprefix("theta_")] - 1
        return found

    def _low_rank(self) -> dict:
        names = {f"{letter.lower()}_shared": f"lora_shared_{letter}" for letter in "AB"}
        names |= {f"{letter.lower()}_{t}": f"lora_tasks_{letter}.{t}" for letter in "AB" for t in self.tasks}
        names |= {"norm_scale_shared": "lora_norm.weight", "norm_bias_shared": "lora_norm.bias"}
        return {
            ours: (theirs, self.arrays[f"param/{theirs}"].T)
            for ours, theirs in names.items()
            if f"param/{theirs}" in self.arrays
        }

    def values(self) -> dict:
        """What the reference implementations differentiate with respect to."""
        inputs = {"x": self.arrays["x"]}
        if self.takes_task_inputs:
            inputs |= {f"x/{t}": self.arrays[f"x/{t}"] for t in self.tasks}
        bias = {"linear.bias": self.arrays["param/linear.bias"]} if hasattr(self.linear, "bias") else {}
        parameters = {name: array for name, (_, array) in self.parameters.items()}
        return jax.tree.map(jnp.asarray, {"parameters": parameters, "inputs": inputs, "bias": bias})

    def layer(self, values) -> Linear:
        """A copy of the layer with these values."""
        graph, rest = nnx.split(self.linear)
        state = nnx.to_pure_dict(rest)
        state["adapter"] |= values["parameters"]
        if values["bias"]:
            state["bias"] = values["bias"]["linear.bias"]
        return nnx.merge(graph, state, copy=True)

    def outputs(self, values, layer: Linear, prepared) -> dict:
        inputs = values["inputs"]
        x = jnp.stack([inputs["x"], *(inputs[f"x/{t}"] for t in self.tasks if self.takes_task_inputs)])
        entering = (SHARED, *self.tasks) if self.takes_task_inputs else (SHARED,)
        y = layer(x, entering, Context(train=False, prepared={self.name: prepared}))
        return dict(zip(layer.streams_out(entering), y, strict=True))


@functools.cache
def _computed(path, cls: str, way: str):
    """Outputs and gradients of all cases of a file from one program: all spectra in one call, as in a model."""
    golden = Golden(path)
    cases = {case["name"]: _Case(golden, case, way) for case in _cases(path, cls)}

    def loss(values):
        layers = {name: case.layer(values[name]) for name, case in cases.items()}
        prepared = {}
        for kind in {type(layer.adapter) for layer in layers.values()}:
            mine = [name for name, layer in layers.items() if type(layer.adapter) is kind]
            prepared |= dict(zip(mine, kind.prepare([layers[name].adapter for name in mine]), strict=True))
        out = {n: case.outputs(values[n], layers[n], prepared[n]) for n, case in cases.items()}
        total = sum(jnp.sum(y * cases[n].arrays[f"cot/{s}"]) for n, ys in out.items() for s, y in ys.items())
        return total, out

    start = {name: case.values() for name, case in cases.items()}
    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(start)
    return cases, outputs, gradients


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_case_of_the_golden_files_is_compared(path):
    found = {case["name"] for case in Golden(path).meta["cases"]}
    assert found
    assert found == {param.values[2] for param in _every_case() if param.values[0] == path}


@pytest.mark.parametrize(("path", "cls", "name", "way"), list(_every_case()))
def test_layer(path, cls, name, way):
    cases, outputs, gradients = _computed(path, cls, way)
    case, arrays, got = cases[name], cases[name].arrays, gradients[name]
    assert set(outputs[name]) == {SHARED, *case.tasks}
    for stream, y in outputs[name].items():
        np.testing.assert_allclose(y, arrays[f"y/{stream}"], atol=1e-4, rtol=0, err_msg=stream)
    found = {f"grad/{theirs}": got["parameters"][ours] for ours, (theirs, _) in case.parameters.items()}
    found |= {f"grad/{key}": value for key, value in (got["inputs"] | got["bias"]).items()}
    assert {key for key in arrays if key.startswith("grad/")} == set(found)
    for key, gradient in found.items():
        expected = arrays[key]
        # Matrices lie the other way round; a theta is a row there.
        ours = gradient.T if gradient.ndim == 2 and "lora" in key else gradient
        difference = np.abs(np.asarray(ours).reshape(expected.shape) - expected).max()
        assert difference <= 1e-2 * np.abs(expected).max(), key
