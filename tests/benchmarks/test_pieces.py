"""The parts that benchmarks are made of: counts, ratios, tables, reference loops."""

import doctest
import importlib
import itertools

import numpy as np
import pytest

from benchmarks import counting, kernels, report, timing
from benchmarks.cpab import looped, spectra
from ditask_jax.config import load_config
from ditask_jax.nn.linear import linears
from ditask_jax.training.experiment import build_method, build_model, describe_plan

SIZE = (32, 32)


def built(*overrides):
    config = load_config("configs/smoke.py", ["batch_size=2", *overrides])
    return build_model(config, abstract=True), describe_plan(config), build_method(config)


@pytest.mark.parametrize("name", ["timing", "kernels", "report", "cpab"])
def test_examples_of_docstrings(name):
    found = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_work_of_full_fine_tuning_is_three_products_per_layer():
    model, plan, method = built("method.name=full")
    by_hand = 6 * sum(l.info.tokens * 2 * l.inputs * l.outputs for l in linears(model.backbone))
    found = counting.needed(model, plan, method, SIZE, 2)
    assert found["dense"] + found["merging"] == by_hand
    assert found["total"] == pytest.approx(sum(value for name, value in found.items() if name != "total"))


def test_work_of_a_frozen_backbone_is_two_products_per_frozen_layer():
    full, frozen = (built(f"method.name={name}") for name in ("full", "frozen"))
    dense = [counting.needed(*parts, SIZE, 2)["dense"] for parts in (full, frozen)]
    assert dense[1] == pytest.approx(dense[0] * 2 / 3)


def test_streams_are_followed_from_block_to_block():
    model, plan, _ = built()
    streams = counting.streams_by_layer(model, plan)
    names = {path.removeprefix("backbone/stages/"): found for path, found in streams.items()}
    depths = model.backbone.config.depths
    for stage, depth in enumerate(depths):
        last = f"{stage}/blocks/{depth - 1}"
        leaving = 2 if stage == len(depths) - 1 else 3  # two tasks, and the shared stream where something reads it
        assert names[f"{last}/attn/qkv"] == (1, 1)
        assert names[f"{last}/attn/proj"] == (1, leaving)
        assert names[f"{last}/mlp/fc2"] == (leaving, leaving)
        if stage < len(depths) - 1:
            assert names[f"{stage}/merging/reduction"] == (leaving, leaving)


def test_a_layer_counts_its_cheaper_way():
    model, plan, _ = built()
    layer = next(l for l in linears(model.backbone) if l.info.path.endswith("0/mlp/fc1"))
    rows, (inputs, outputs) = layer.info.tokens * 2, (layer.inputs, layer.outputs)
    ten = 2 * rows * inputs * (inputs + outputs)
    twelve = 3 * rows * inputs * outputs + 2 * inputs * inputs * outputs
    entry = next(p for p in plan.layers if p.info.path == layer.info.path)
    streams = len(entry.streams) or 1
    assert counting.dense_layer(layer, plan, (streams, streams), 2, False) == streams * min(ten, twelve)


def test_rows_take_turns():
    seen = []
    rows = {name: lambda name=name: seen.append(name) for name in "abc"}
    found = timing.in_turns(rows, rounds=3, warm=1)
    assert seen == list("abc") * 4
    assert all(len(found[name]["cpu"]) == 3 for name in "abc")
    assert timing.ratio({"a": {"wall": [1.0, 9.0]}, "b": {"wall": [2.0, 3.0]}}, "a", "b") == pytest.approx(1.75)


def test_kernels_of_gpu_streams_and_cpu_threads_are_summed():
    name = lambda kind, pid, tid, text: {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": text}}
    events = [
        name("process_name", 1, 0, "/device:GPU:0"),
        name("thread_name", 1, 5, "Stream #13(Compute)"),
        name("thread_name", 2, 6, "python"),
        *({"ph": "X", "name": f"gemm_{k}", "pid": 1, "tid": 5, "dur": 10.0} for k in range(3)),
        {"ph": "X", "name": "gemm_9", "pid": 2, "tid": 6, "dur": 1e6},
    ]
    assert kernels.summarise(events) == [{"kernel": "gemm", "milliseconds": 0.03, "calls": 3}]


def test_tables_say_what_was_found():
    row = {"seconds": 2.0, "best_seconds": 1.5, "cpu_seconds": 3.0, "best_cpu_seconds": 2.5}
    program = {"flops": 4e9, "bytes_accessed": 5e9, "temporary": 6_000_000, "compile_seconds": 7.0}
    entry = {
        "rows": {"ours": row, "peer: full": row},
        "programs": {"ours": program},
        "needed_flops": {"ours": {"total": 3e9}},
        "ratios": {"peer: full": 0.5},
        "cpu_ratios": {"peer: full": 0.625},
        "machine": {"product_flops": {"product": 2e11}, "copy_bytes": 1e10},
        "floor_seconds": 0.5,
        "share_of_floor": 0.25,
    }
    text = report.table(4, entry)
    assert "| ours | 2.000 | 1.500 | 3.000 |  |  | 3.0 | 4.0 | 5.0 | 6 | 7 |" in text
    assert "| peer: full | 2.000 | 1.500 | 3.000 | 0.50 | 0.62 |" in text
    assert "floor: 0.500 s, 25 % of its rate reached" in text


def test_the_reference_loop_agrees_with_the_package():
    from ditask_jax.cpab import Tessellation, spectrum_displacements

    layers = list(itertools.islice(spectra("swin_test", cells=8), 4))
    found = spectrum_displacements(*zip(*layers, strict=True), Tessellation(8), "value", 1.0)
    for change, (theta, values) in zip(found, layers, strict=True):
        exact = looped(theta.astype(np.float64), values.astype(np.float64), 8)
        assert np.abs(exact).max() > 1e-2
        np.testing.assert_allclose(np.asarray(change), exact, atol=1e-5)
