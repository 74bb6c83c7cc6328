"""SIGKILL at random moments, and at each named point of a save; nothing may be lost, everything must end bit-equal.

python -m tests.crash.suite --kills=200
"""

import argparse
import json
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from ditask_jax import cli
from tests.crash.killing import POINTS, Command, differences, newest_whole, rows_written

STEPS = 30
KILLS_PER_RUN = 12  # then it is left to end, and compared


class Suite:
    """Kills runs and keeps the score.

    Args:
      folder: scratch space.
      seed: of the moments.
      steps: length of every training.
    """

    def __init__(self, folder: pathlib.Path, seed: int = 0, steps: int = STEPS):
        self.folder = folder
        self.command = Command(folder / "cache", steps)
        self.straight = folder / "straight"
        self.counts = {"random kills": 0, "kills at points": 0, "terminations": 0, "runs compared": 0}
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self._dice = random.Random(seed)
        self._number = 0
        self._seconds = self._undisturbed(self.straight)

    def run_again(self) -> None:
        """An undisturbed run with everything compiled: it must end like the first; the others live as long."""
        folder = self._new_folder()
        self._seconds = self._undisturbed(folder)
        self._compare(folder)

    def _undisturbed(self, folder: pathlib.Path) -> float:
        begin = time.monotonic()
        code, output = self.command.run(folder)
        if code != 0:
            raise RuntimeError(f"the undisturbed run failed: {output}")
        return time.monotonic() - begin

    def random_kills(self, count: int, with_signal: int = signal.SIGKILL, name: str = "random kills") -> None:
        """Kills runs at random moments: anywhere in their life, behind a step, or while a save is on disk."""
        folder, kills = self._new_folder(), 0
        while self.counts[name] < count:
            before, rows = newest_whole(folder), rows_written(folder)
            code, output = self.command.kill(folder, *self._moment(folder, rows), with_signal=with_signal)
            if code == 0:
                self._compare(folder)
                folder, kills = self._new_folder(), 0
                continue
            expected = -signal.SIGKILL if with_signal == signal.SIGKILL else cli.PREEMPTED
            # Before the training starts nobody listens to SIGTERM yet.
            if code not in (expected, -with_signal):
                self.wrong.append(f"{folder.name}: exit code {code}: {output[-500:]}")
                return
            self.counts[name] += 1
            kills += 1
            self._check_nothing_lost(folder, before, output)
            if kills == KILLS_PER_RUN:
                self._finish(folder)
                folder, kills = self._new_folder(), 0
        if kills:
            self._finish(folder)

    def kills_at_points(self, occurrences: tuple[int, ...] = (1, 3)) -> None:
        """Kills one run at each point of a save, the first one and a later one, each time going on from there."""
        folder = self._new_folder()
        for point in POINTS:
            for occurrence in occurrences:
                before = newest_whole(folder)
                code, output = self.command.run(folder, point, occurrence)
                if code != -signal.SIGKILL:
                    self.wrong.append(f"{folder.name}: at {point}: exit code {code}: {output[-500:]}")
                    return
                self.counts["kills at points"] += 1
                # A save counts from its manifest on; every one before it must be there.
                done = occurrence if point in ("manifest", "end") else occurrence - 1
                if newest_whole(folder) < before + done:
                    self.lost.append(f"{folder.name}: at {point}: step {newest_whole(folder)}, had {before} + {done}")
        self._finish(folder)

    def _moment(self, folder: pathlib.Path, rows: int):
        kind = self._dice.random()
        if kind < 0.2:
            return (lambda: True), self._dice.random() * self._seconds
        if kind < 0.4:
            unfinished = lambda: any((folder / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
            return (lambda: rows_written(folder) > 0 and unfinished()), self._dice.random() * 0.02
        ahead = rows + self._dice.randint(1, 4)
        return (lambda: rows_written(folder) >= ahead), self._dice.random() * 0.05

    def _new_folder(self) -> pathlib.Path:
        self._number += 1
        return self.folder / f"run{self._number}"

    def _check_nothing_lost(self, folder: pathlib.Path, before: int, output: str) -> None:
        if newest_whole(folder) < before:
            self.lost.append(f"{folder.name}: had step {before}, now {newest_whole(folder)}")
        if "Traceback" in output:
            self.wrong.append(f"{folder.name}: {output[-500:]}")

    def _finish(self, folder: pathlib.Path) -> None:
        code, output = self.command.run(folder)
        if code != 0:
            self.wrong.append(f"{folder.name}: could not go on, exit code {code}: {output[-500:]}")
        else:
            self._compare(folder)

    def _compare(self, folder: pathlib.Path) -> None:
        self.counts["runs compared"] += 1
        self.wrong += [f"{folder.name}: {line}" for line in differences(folder, self.straight, self.command.steps)]
        shutil.rmtree(folder)

    def report(self) -> dict:
        """Counts, and what was lost or wrong."""
        return {**self.counts, "lost": len(self.lost), "wrong": len(self.wrong)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at random moments")
    parser.add_argument("--terminations", type=int, default=10, help="SIGTERM at random moments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="crash"))
    suite = Suite(folder, args.seed, args.steps)
    suite.run_again()
    suite.kills_at_points()
    print(json.dumps(suite.report()), flush=True)
    suite.random_kills(args.terminations, signal.SIGTERM, "terminations")
    print(json.dumps(suite.report()), flush=True)
    while suite.counts["random kills"] < args.kills and not suite.wrong:
        suite.random_kills(min(suite.counts["random kills"] + KILLS_PER_RUN, args.kills))
        print(json.dumps(suite.report()), flush=True)
    for line in (*suite.lost, *suite.wrong):
        print(line)
    if suite.lost or suite.wrong:
        print(f"kept for a look: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
