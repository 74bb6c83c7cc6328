"""A training without a model: a program that leaves behind what a sweep looks at, in a tenth of a second."""

import sys
import textwrap

from ditask_jax.config import to_json
from ditask_jax.sweeps.loading import Job

_PROGRAM = """
import json, os, pathlib, signal, sys, time
folder, steps, action, config = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
print("environment", {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "JAX_COMPILATION_CACHE_DIR")})
print("cores", sorted(os.sched_getaffinity(0)), flush=True)
(folder / "config.json").write_text(config)
if action == "fail":
    print("sum of losses")
    sys.exit("data: no such file")
if action == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if action == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print("waiting", flush=True)
    (folder / "waiting").touch()
    time.sleep(60)
if action != "idle":
    scores = {"step": steps, "scores": {"semseg": {"mIoU": 0.5}}, "delta_m": 1.25}
    (folder / "evaluation.json").write_text(json.dumps(scores))
"""


def fake_command(actions=None):
    """Command of a job for `Runner`.

    Args:
        actions: By name of a point: "fail", "die", "wait" (until told to stop), "idle" (leaves no scores).
    """

    def command(job: Job) -> list[str]:
        action = (actions or {}).get(job.name, "train")
        arguments = [str(job.workdir), str(job.config.total_steps), action, to_json(job.config)]
        return [sys.executable, "-S", "-c", textwrap.dedent(_PROGRAM), *arguments]

    return command
