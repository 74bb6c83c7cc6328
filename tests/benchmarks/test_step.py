"""`benchmarks/step.py` runs from end to end on the smallest configuration."""

import json

import pytest

from benchmarks import step


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DITASK_CACHE_DIR", str(tmp_path / "cache"))

    def run(*arguments):
        file = tmp_path / "found.json"
        assert (
            step.main(["--config=configs/smoke.py", "--batch-size=2", "--rounds=2", f"--json={file}", *arguments]) == 0
        )
        return json.loads(file.read_text())["batches"]["2"], capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_step_is_timed_beside_its_floor(measured):
    # One task and few adapted layers, for the compiler's sake.
    found, text = measured("--config.tasks=depth", "--config.method.shared_layers=('fc1',)")
    assert "| ours |" in text
    assert found["programs"]["ours"]["flops"] > found["needed_flops"]["ours"]["total"] > 0
    assert 0 < found["share_of_floor"] < 1
    assert all(row["seconds"] >= row["best_seconds"] > 0 for row in found["rows"].values())


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as left:
        step.main(["--config=configs/smoke.py", "--batches=2"])
    assert left.value.code == 2
    assert "--batches=2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_is_split_and_traced(measured, tmp_path):
    found, text = measured("--split", f"--profile={tmp_path / 'trace'}", "--dtype=bfloat16")
    parts = {name for name in found["rows"] if name.startswith("part: ")}
    assert parts >= {"part: forward", "part: optimiser", "part: CPAB, with gradient", "part: resizing alone"}
    assert len(found["kernels"]) == 10
    assert "CPAB with gradient:" in text


@pytest.mark.slow
def test_inference_and_memory(measured):
    found, text = measured("--inference")
    assert len(found["inference"]["ratios"]) == 3
    assert "ditask merged, one task" in text
    found, _ = measured("--memory")
    ours, streams = (found["memory"][name] for name in ("ours", "same streams, all weights"))
    assert ours["held"] <= streams["held_without_optimiser"]
    assert streams["optimiser_state"] > ours["optimiser_state"]
