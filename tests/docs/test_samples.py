"""Every Python sample of the pages runs as it is printed, each in an empty folder."""

import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax.config import validate
from tests.docs.pages import Sample, samples

# Run elsewhere: the sample of the README, files of their own, a reader that needs PyTorch, a hub.
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "extending.md": "tests/docs/test_extending.py",
    "weights.md:0": "tests/interop/test_documented_reader.py",
    "weights.md:2": "tests/hub/test_transfers.py",
}
CHOSEN = [s for s in samples() if s.page not in ELSEWHERE and str(s) not in ELSEWHERE]


def small_model() -> dict:
    tasks = dj.create_tasks("semseg+depth", dataset="scenes")
    model = dj.create_model("swin_test", tasks, image_size=32, widths=(4, 4, 4, 4))
    dj.wrap(model, dj.DiTASK(shared_cells=4, task_cells=4))
    parts = dj.split_state(model)
    return {"dj": dj, "model": model, "state": (parts.trainable, parts.stats)}


def with_program() -> dict:
    names = small_model()
    dj.export_program("scenes.stablehlo", names["model"])
    return {"images": np.zeros((3, 32, 32, 3), np.uint8)}


# What the text around a sample takes for granted, by a line that only this sample has.
BEFORE = {
    'dj.save_adapter("out/adapter"': small_model,
    "jax.export.deserialize": with_program,
}
SLOW = ("jax.export.deserialize",)


def marked(sample: Sample):
    slow = any(line in sample.text for line in SLOW)
    return pytest.param(sample, id=str(sample), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("sample", [marked(sample) for sample in CHOSEN])
def test_a_sample_runs(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = next((make() for line, make in BEFORE.items() if line in sample.text), {})
    exec(compile(sample.text, str(sample), "exec"), names)
    if "get_sweep" in names:
        assert len(names["get_sweep"]().points) > 3
    if "get_config" in names:
        validate(names["get_config"]())
    if "logits" in names:
        assert {name: value.shape[:3] for name, value in names["logits"].items()} == {
            "semseg": (3, 32, 32),
            "depth": (3, 32, 32),
        }


def test_samples_that_run_elsewhere_are_there():
    found = {name for sample in samples() for name in (sample.page, str(sample))}
    assert set(ELSEWHERE) <= found
    assert len(CHOSEN) >= 3
