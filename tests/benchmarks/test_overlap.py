"""`benchmarks/overlap.py` runs from end to end, on generated images and on a prepared set."""

import json

import pytest

from benchmarks import overlap


@pytest.mark.slow
@pytest.mark.parametrize("config", ["configs/smoke.py", "configs/pascal_swin_tiny.py"])
def test_fed_steps_are_timed(tmp_path, capsys, config, monkeypatch):
    if "pascal" in config:
        # The same data, a smaller model.
        from ditask_jax import config as configuration

        load, small = configuration.load_config, ["backbone.name=swin_test", "image_size=64", "data.threads=1"]
        monkeypatch.setattr(configuration, "load_config", lambda path, words=(): load(path, [*small, *words]))
    file = tmp_path / "found.json"
    assert overlap.main([f"--config={config}", "--batch-size=2", "--steps=2", "--rounds=1", f"--json={file}"]) == 0
    found = json.loads(file.read_text())["2"]
    assert all(seconds > 0 for seconds in found.values())
    # Two independent clocks: a step that waits is at least as long as its wait.
    assert found["waited_seconds"] < found["fed_seconds"]
    assert capsys.readouterr().out.startswith("| batch |")
