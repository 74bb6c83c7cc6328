"""The training command, killing itself at a named point of a save: `python -m tests.crash.suicide POINT N OPTIONS`."""

import os
import signal
import sys

from ditask_jax import cli, train
from ditask_jax.training import checkpoints


def main(argv: list[str]) -> int:
    """Trains; SIGKILL on reaching a point (see `ditask_jax.training.checkpoints._reached`) for the n-th time."""
    point, occurrence, *options = argv
    reached = []

    def count(name: str) -> None:
        reached.append(name)
        if reached.count(point) == int(occurrence):
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints._reached = count
    return train.main(options)


if __name__ == "__main__":
    sys.exit(cli.execute(main))
