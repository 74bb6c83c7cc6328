"""Trainings in processes of their own: the second compiles nothing, and every number is the same to the last bit."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.crash.killing import differences

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Counts what JAX says about compiling, as a plug-in of the command.
_COUNTING = """
import atexit, collections, json, os
import jax

counted = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counted.update([event.rsplit("/")[-1]]))
jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: counted.update([event.rsplit("/")[-1]]))
atexit.register(lambda: open(os.environ["COUNTED"], "w").write(json.dumps(counted)))
"""


@pytest.mark.slow
def test_the_second_start_compiles_nothing_and_changes_no_bit(tmp_path):
    plugin, counted = tmp_path / "counting.py", tmp_path / "counted.json"
    plugin.write_text(_COUNTING)

    def train(name, **variables):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
        environment |= {"DITASK_CACHE_DIR": str(tmp_path / "cache"), "DITASK_PLUGINS": str(plugin)}
        environment |= {"JAX_NUM_CPU_DEVICES": "1", "COUNTED": str(counted), **variables}
        environment.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)
        command = [sys.executable, "-m", "ditask_jax.train", "--config=smoke", f"--workdir={tmp_path / name}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(counted.read_text())
        compiled = found["backend_compile_duration"] - found.get("cache_hits", 0)
        said = [line for line in done.stderr.splitlines() if "compiled programs" in line]
        return compiled, found.get("cache_hits", 0), len(said)

    without, hits, said = train("without", JAX_ENABLE_COMPILATION_CACHE="false")
    assert without > 20
    assert (hits, said) == (0, 0)
    # A program that is asked for twice in one process may be found the second time.
    cold, found, said = train("cold")
    assert cold > found
    assert (cold + found, said) == (without, 1)
    compiled, hits, said = train("warm")
    assert (compiled, hits, said) == (0, without, 0)
    # Goes on from step 4 with programs that another process has compiled.
    shutil.copytree(tmp_path / "warm", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "6")
    compiled, _, _ = train("resumed")
    assert compiled <= 5  # what only resuming needs, small programs
    for name in ("cold", "warm", "resumed"):
        assert differences(tmp_path / name, tmp_path / "without", 6) == [], name
