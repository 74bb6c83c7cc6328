"""One of several processes that `test_processes.py` starts; prints what it found as JSON.

`python -m tests.training.two_processes FOLDER`, with the variables that `ditask_jax.training.cluster` reads.
"""

import json
import os
import signal
from pathlib import Path

import jax
import numpy as np

from ditask_jax import cli
from ditask_jax.errors import CheckpointError
from ditask_jax.training import distributed
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.distributed import StopSignal, add_up, agree, gather, locked_by_first, own_rows, wait_for_all
from ditask_jax.training.sharding import make_mesh, place_whole, replicated, spread_flag
from tests.training.process_cases import computed, rows_read, state

EXACT = 2**53 - 1  # needs every bit of a 64-bit number


def look(folder: Path) -> dict:
    """Goes through everything that processes do together."""
    here, mesh = jax.process_index(), make_mesh()
    found = {"first": distributed.is_first(), "devices": [jax.local_device_count(), mesh.size]}
    found["mesh"] = [device.process_index for device in mesh.devices.ravel()]
    found["gathered"] = gather(np.array([EXACT + here, -1])).tolist()
    found["total"] = add_up({"n": np.array([EXACT, here]), "one": np.array(1)})
    found["total"] = {name: value.tolist() for name, value in found["total"].items()}
    found["own"] = own_rows(np.arange(6)).tolist()
    agree("number", "7", "none")
    found["disagreement"] = _message(lambda: agree("number", str(here), "use one"))

    free, taken = (folder / name / ".lock" for name in ("free", "taken"))
    with locked_by_first(free, "workdir", "training", "wait"):
        found["held"] = json.loads(free.read_text())["what"]
        wait_for_all()
    wait_for_all()
    found["released"] = not free.parent.exists()
    found["refused"] = _message(lambda: locked_by_first(taken, "workdir", "training", "wait").__enter__())

    whole = place_whole(state(), replicated(mesh))
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(3, whole, {"note": "x"}, block=True)
        wait_for_all()  # the first process has written
        step, back, meta = checkpointer.restore_latest_verified(whole, replicated(mesh))
    same = jax.tree.map(lambda a, b: np.array_equal(a, b) and a.sharding == b.sharding, back, whole)
    found["restored"] = [step, all(jax.tree.leaves(same)), meta]
    found |= {"computed": computed(mesh), "rows": rows_read()}

    with StopSignal() as stop:
        told = lambda: bool(jax.jit(jax.numpy.any)(spread_flag(stop.asked, mesh)))
        before = told()
        if here == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        found["stop"] = [before, told()]
    return found


def _message(call) -> str:
    try:
        call()
    except CheckpointError as error:
        return str(error)
    return ""


def main(argv: list[str]) -> int:
    """Joins the others, looks, prints."""
    distributed.start()
    print(json.dumps(look(Path(argv[0]))), flush=True)
    return cli.OK


if __name__ == "__main__":
    cli.run(main)
