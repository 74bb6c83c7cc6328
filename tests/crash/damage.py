"""Damages files of a checkpoint in every way a disk or a copy does; none may be restored without a word.

python -m tests.crash.damage --trials=10000
"""

import argparse
import os
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.errors import CheckpointError
from ditask_jax.training.checkpoints import Checkpointer

GOOD, DAMAGED = 10, 20
FULL_EVERY = 25  # trials of which one restores the older checkpoint too


def make_state(seed: int) -> dict:
    """A state such as a trainer's, small: some arrays of several dtypes and a size of zero."""
    draw = np.random.default_rng(seed)
    arrays = {f"theta{k}": jnp.asarray(draw.normal(size=(k + 1, 7)), jnp.float32) for k in range(8)}
    return {
        "trainable": arrays,
        "opt_state": {"mu": jnp.asarray(draw.normal(size=300), jnp.float32), "count": jnp.int32(seed)},
        "stats": {"mean": jnp.asarray(draw.normal(size=4), jnp.bfloat16), "flag": jnp.array([True, False])},
        "nothing": jnp.zeros((0, 3)),
    }


def _flip_bit(content: bytearray, dice: random.Random) -> bytes:
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content)


def _truncate(content: bytearray, dice: random.Random) -> bytes:
    return bytes(content[: dice.randrange(len(content))])


def _lengthen(content: bytearray, dice: random.Random) -> bytes:
    return bytes(content) + dice.randbytes(dice.randint(1, 64))


def _zero_block(content: bytearray, dice: random.Random) -> bytes:
    start = dice.randrange(len(content))
    block = content[start : start + 512]
    return bytes(content[:start]) + bytes(len(block)) + bytes(content[start + 512 :])


def _scramble(content: bytearray, dice: random.Random) -> bytes:
    return dice.randbytes(len(content))


def _drop_middle(content: bytearray, dice: random.Random) -> bytes:
    start = dice.randrange(len(content))
    return bytes(content[:start] + content[start + dice.randint(1, 16) :])


def _swap_bytes(content: bytearray, dice: random.Random) -> bytes:
    a, b = dice.randrange(len(content)), dice.randrange(len(content))
    content[a], content[b] = content[b], content[a]
    return bytes(content)


CHANGES: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    _flip_bit,
    _truncate,
    _lengthen,
    _zero_block,
    _scramble,
    _drop_middle,
    _swap_bytes,
)


def damage_files(folder: pathlib.Path, trials: int, seed: int = 0, progress: Callable[[int, int], None] | None = None):
    """Damages one file of a checkpoint after another and tries to restore it.

    Returns:
      `(counts by kind of damage, the damages that were restored without a word)`.
    """
    with Checkpointer(folder, keep=2) as checkpointer:
        for step in (GOOD, DAMAGED):
            checkpointer.save(step, make_state(step), {"seed": step}, block=True)
    dice = random.Random(seed)
    files = sorted(path for path in (folder / str(DAMAGED)).rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in files}
    counts: dict[str, int] = {}
    silent: list[str] = []
    with Checkpointer(folder, read_only=True) as checkpointer:
        for trial in range(trials):
            kind = None
            while kind is None:
                path = dice.choice(files)
                kind = _damage(path, contents[path], files, contents, dice)
            counts[kind] = counts.get(kind, 0) + 1
            if not _is_noticed(checkpointer, trial):
                silent.append(f"trial {trial}: {kind} of {path.relative_to(folder)}")
            path.write_bytes(contents[path])
            if progress is not None:
                progress(trial + 1, len(silent))
        # Repaired, it restores again: the trials did not only ever meet one checkpoint broken for good.
        step, state, _ = checkpointer.restore_latest_verified(make_state(0))
        _assert_equal(step, state, DAMAGED)
    return counts, silent


def _damage(path, content, files, contents, dice) -> str | None:
    """Damages a file; returns how, None where nothing changed."""
    choice = dice.randrange(len(CHANGES) + 3)
    if choice < len(CHANGES):
        if not content:
            return None
        new, kind = CHANGES[choice](bytearray(content), dice), CHANGES[choice].__name__.strip("_")
    elif choice == len(CHANGES):
        path.unlink()
        return "removal"
    elif choice == len(CHANGES) + 1:
        new, kind = b"", "emptying"
    else:
        new, kind = contents[dice.choice(files)], "another file's content"
    if new == content:
        return None
    path.write_bytes(new)
    return kind


def _is_noticed(checkpointer: Checkpointer, trial: int) -> bool:
    try:
        checkpointer.restore(DAMAGED, make_state(0))
    except CheckpointError:
        if trial % FULL_EVERY == 0:
            step, state, _ = checkpointer.restore_latest_verified(make_state(0))
            _assert_equal(step, state, GOOD)
            return [step for step, _ in checkpointer.rejected] == [DAMAGED]
        return True
    return False


def _assert_equal(step: int, state: dict, expected: int) -> None:
    if step != expected:
        raise AssertionError(f"restored step {step}, expected {expected}")
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(make_state(expected)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    folder = pathlib.Path(tempfile.mkdtemp())

    def shown(tried: int, silent: int) -> None:
        if tried % 1000 == 0:
            print(f"{tried} of {args.trials}, {silent} restored silently", flush=True)

    try:
        counts, silent = damage_files(folder / "checkpoints", args.trials, args.seed, shown)
    finally:
        shutil.rmtree(folder)
    for kind, count in sorted(counts.items()):
        print(f"{kind}: {count}")
    print(f"{sum(counts.values())} damaged files, {len(silent)} restored silently")
    for line in silent[:20]:
        print(line)
    return 1 if silent else 0


if __name__ == "__main__":
    import logging

    logging.getLogger("ditask_jax").setLevel(logging.ERROR)  # one warning per rejected checkpoint otherwise
    sys.exit(main())
