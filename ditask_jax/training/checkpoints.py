"""Saving and restoring what trains; the only module that touches Orbax.

A checkpoint is the folder `<directory>/<step>`: the arrays in Orbax's format and a manifest with a hash per leaf. Orbax
writes to a temporary folder and renames it; the manifest follows; only then are older checkpoints removed. So whatever
moment a process dies at, the newest folder with an intact manifest is whole.

Orbax writes and reads the arrays, and commits a folder. Its retention, async and best policies are not used: with 0.12
they cannot keep that promise.

* Old checkpoints are chosen in `CheckpointManager.save`, before the new one is committed, and removed right behind its
  rename. `post_finalization_callback` runs before the rename and is not told the folder, so the manifest, which needs
  the finished files, could only be written after the removal: with `keep=1` a process killed in between has nothing
  whole.
* After a commit that fails (a full disk), `all_steps()` of a manager that keeps one is empty and `latest_step()` None,
  though the folder of the older step is whole, and the temporary folder stays.
* A policy sees step, time and metrics, not hashes: a damaged checkpoint counts among the newest and may be the best.

So one thread here saves, writes the manifest and removes, in that order.
"""

import concurrent.futures
import contextlib
import errno
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ditask_jax.errors import CheckpointError
from ditask_jax.files import user_path
from ditask_jax.training import manifest as manifests
from ditask_jax.training.sharding import place_whole

_log = logging.getLogger(__name__)

_NO_SPACE = os.strerror(errno.ENOSPC)
# What the file system and Orbax's storage library raise where a disk is full, unplugged or read-only.
_STORAGE_ERRORS = (OSError, ValueError)
_BESIDE_ARRAY = 2048  # bytes that its name, description and hashes take


@contextlib.contextmanager
def saved_if_it_fails(save: Callable[[], None]) -> Iterator[None]:
    """Saves what was trained before an error goes on: scores that cannot be taken must not cost the training.

    >>> with saved_if_it_fails(lambda: print("saved")):
    ...     raise KeyError("a task's mistake")
    Traceback (most recent call last):
    ...
    KeyError: "a task's mistake"
    """
    try:
        yield
    except Exception:  # whatever it is: it goes on
        save()
        raise


class Checkpointer:
    """Keeps the newest checkpoints of a run (and the best), saving in the background.

    Of several processes the first one writes; each reads for itself. States are pytrees of arrays that every process
    holds whole.

    Args:
        directory: Folder of the checkpoints; made when the first one is saved.
        keep: How many of the newest are kept, at least 1.
        best_metric: Name in `metrics` of `save` by which the best is kept as well; None: only the newest.
        best_mode: "max" or "min".
        read_only: Never writes or removes anything; for programs beside a running trainer.

    Attributes:
        rejected: `(step, reason)` of the checkpoints that the last `restore_latest_verified` passed over.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> state = {"trainable": {"theta": np.arange(3.0, dtype=np.float32)}}
    >>> with Checkpointer(folder.name) as checkpointer:
    ...     checkpointer.save(10, state, meta={"note": "x"})
    ...     checkpointer.wait()
    ...     step, restored, meta = checkpointer.restore_latest_verified(state)
    >>> step, restored["trainable"]["theta"].tolist(), meta
    (10, [0.0, 1.0, 2.0], {'note': 'x'})
    >>> folder.cleanup()
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        keep: int = 2,
        best_metric: str | None = None,
        *,
        best_mode: str = "max",
        read_only: bool = False,
    ):
        if keep < 1:
            raise ValueError(f"keep: got {keep}, expected at least 1")
        if best_mode not in ("max", "min"):
            raise ValueError(f"best_mode: got {best_mode!r}, expected 'max' or 'min'")
        self.directory = user_path(directory).absolute()
        self.keep = keep
        self.best_metric = best_metric
        self.best_mode = best_mode
        self.rejected: list[tuple[int, str]] = []
        self._unusable: set[int] = set()  # rejected and not yet replaced; they make room at the next save
        self._writes = not read_only and jax.process_index() == 0
        self._manager = None
        self._links: tempfile.TemporaryDirectory | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future | None = None
        if self._writes and self.directory.is_dir():
            self._open()  # also removes what a killed save left behind

    def save(
        self,
        step: int,
        state: Any,
        meta: Any = None,
        metrics: Mapping[str, float] | None = None,
        *,
        block: bool = False,
    ) -> None:
        """Copies the state to host memory and writes it in the background; a save in progress is waited for first.

        A folder of the same step that is unfinished or was rejected is replaced.

        Args:
            step: Optimiser steps done.
            state: Pytree of arrays.
            meta: Anything JSON can hold; comes back from `restore`.
            metrics: Scores by name, for `best_metric`.
            block: Whether to wait until the checkpoint counts.

        Raises:
            CheckpointError: This save or the one before it could not be written; older checkpoints are untouched.
        """
        self.wait()
        if self._writes:
            arrays = manifests.host_copy(state)
            self._pending = self._thread.submit(self._write, int(step), arrays, meta, dict(metrics or {}))
            if block:
                self.wait()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints (those with a manifest), rising; their arrays are not read."""
        return [step for step in self._folders() if (self._folder(step) / manifests.MANIFEST_NAME).is_file()]

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Step of the best complete checkpoint by `best_metric`, the newer of equals; None where none has it."""
        scores = []
        for step in self.steps() if self.best_metric else ():
            try:
                score = manifests.read_manifest(self._folder(step))["metrics"].get(self.best_metric)
            except CheckpointError:
                continue  # a damaged checkpoint is nobody's best
            if score is not None:
                scores.append((score if self.best_mode == "max" else -score, step))
        return max(scores)[1] if scores else None

    def restore(self, step: int, like: Any, sharding: Any = None) -> tuple[Any, Any]:
        """Reads and verifies one checkpoint.

        Args:
            step: Its step.
            like: Pytree of arrays or `jax.ShapeDtypeStruct`s with the structure, shapes and dtypes expected.
            sharding: Where to put the arrays: one sharding, or a pytree of them; None: the default device.

        Returns:
            `(state, meta)`, the state with the structure of `like`.

        Raises:
            CheckpointError: It is missing, unfinished, damaged, or was saved by another configuration.
        """
        if not self._folder(step).is_dir():
            known = " ".join(map(str, self.steps())) or "none"
            raise CheckpointError(f"checkpoint: {self._where(step)}: no such checkpoint. Known steps: {known}")
        manifest = manifests.read_manifest(self._folder(step))
        manifests.check_structure(manifest, manifests.flatten_state(like), self._where(step))
        return self._load(step, manifest, like, sharding)

    def restore_latest_verified(self, like: Any, sharding: Any = None) -> tuple[int, Any, Any] | None:
        """Restores the newest checkpoint that is whole, passing over unfinished and damaged ones (see `rejected`).

        Returns:
            `(step, state, meta)`, or None where there is no checkpoint, or only a first one that was not finished.

        Raises:
            CheckpointError: There are checkpoints and none is whole, or an intact one belongs to another configuration
                or to a newer version.
        """
        self.wait()
        self.rejected = []
        self._unusable.clear()
        for step in reversed(self._folders()):
            try:
                manifest = manifests.read_manifest(self._folder(step))
            except manifests.NewerManifestError:
                raise
            except CheckpointError as error:
                self._reject(step, error)
                continue
            manifests.check_structure(manifest, manifests.flatten_state(like), self._where(step))
            try:
                return (step, *self._load(step, manifest, like, sharding))
            except CheckpointError as error:
                self._reject(step, error)
        # A first save that was killed leaves one folder without a manifest: nothing was promised, so nothing is lost.
        if self.steps() or len(self.rejected) > 1:
            raise CheckpointError(
                f"checkpoint: {self.directory}: none of {len(self.rejected)} is whole ({self.rejected[0][1]}); "
                "restore the folder from a copy, or choose another --workdir to start afresh"
            )
        return None

    def wait(self) -> None:
        """Waits for the save in progress; raises `CheckpointError` if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def poll(self) -> None:
        """Raises `CheckpointError` if a save has failed in the meantime; waits for nothing."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def close(self) -> None:
        """Waits and lets go of threads and files."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if self._manager is not None:
                self._manager.close()
                self._manager = None
            if self._links is not None:
                self._links.cleanup()
                self._links = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / str(step)

    def _where(self, step: int) -> str:
        return f"step {step} of {self.directory}"

    def _folders(self) -> list[int]:
        """Steps of all committed folders, with a manifest or without, rising."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir())

    def _reject(self, step: int, error: CheckpointError) -> None:
        reason = str(error).removeprefix("checkpoint: ")
        self.rejected.append((step, reason))
        self._unusable.add(step)
        _log.warning("checkpoint of step %d is not used: %s", step, reason)

    def _open(self):
        """The Orbax manager, opened at first need: importing Orbax takes a second."""
        if self._manager is None:
            import orbax.checkpoint as ocp

            if self._writes:
                self.directory.mkdir(parents=True, exist_ok=True)
                for unfinished in self.directory.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(unfinished)
            processes = {}
            if jax.process_count() > 1:
                # Every process acts alone, so that no barrier of a background save meets the training's collectives.
                index = jax.process_index()
                alone = ocp.options.MultiprocessingOptions(
                    primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
                )
                processes = {"multiprocessing_options": alone}
            options = ocp.CheckpointManagerOptions(
                create=False,
                enable_async_checkpointing=False,  # the background thread here also writes the manifest
                save_root_metadata=False,
                lightweight_initialize=True,
                **processes,
            )
            self._manager = ocp.CheckpointManager(self._nameable(), options=options)
        return self._manager

    def _nameable(self) -> pathlib.Path:
        """The folder by a name that Orbax and its storage library take as it stands: a link where needed.

        They take UTF-8 alone, look for files by a pattern of which the folder is part, and turn a backslash into "/".
        """
        name = str(self.directory)
        if os.fsencode(name).decode("utf-8", "replace") == name and not set("*?[\\") & set(name):
            return self.directory
        self._links = tempfile.TemporaryDirectory(prefix="ditask-")
        link = pathlib.Path(self._links.name) / "checkpoints"
        link.symlink_to(self.directory, target_is_directory=True)
        return link

    def _write(self, step: int, arrays: dict[str, np.ndarray], meta: Any, metrics: Mapping[str, float]) -> None:
        try:
            _reached("begin")
            if self._folder(step).is_dir():
                self._remove(step)
            self._write_arrays(step, arrays)
            _reached("arrays")
            manifests.write_manifest(self._folder(step), step, arrays, meta, metrics)
            self._unusable.discard(step)
            _reached("manifest")
            self._remove_old(step)
            _reached("end")
        except Exception as error:
            self._clear(step)  # of a bug, too, nothing half-written stays
            if not isinstance(error, _STORAGE_ERRORS):
                raise
            newest = self.latest()
            rest = "no earlier one exists" if newest is None else f"the one of step {newest} is whole"
            raise CheckpointError(
                f"checkpoint: step {step} could not be saved in {self.directory} ({_reason(error)}); {rest}. "
                "Fix that and run the same command again"
            ) from error

    def _clear(self, step: int) -> None:
        """Removes what a failed save has left, which on a full disk is what stands in the way of the next one."""
        remains = list(self.directory.glob(f"{step}.orbax-checkpoint-tmp*"))
        if not (self._folder(step) / manifests.MANIFEST_NAME).is_file():
            remains.append(self._folder(step))
        for folder in remains:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_arrays(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        import orbax.checkpoint as ocp

        # Orbax refuses arrays of size zero; the manifest alone describes those.
        filled = {name: array for name, array in arrays.items() if array.size}
        manager = self._open()
        _check_space(self.directory, filled)
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(filled)), force=True)

    def _load(self, step: int, manifest: Mapping[str, Any], like: Any, sharding: Any) -> tuple[Any, Any]:
        """Reads the arrays of a checkpoint that has the structure of `like`, and verifies them.

        Files are verified before Orbax opens them: its parallel readers do not survive a damaged one cleanly.
        """
        manifests.check_files(manifest, self._folder(step), self._where(step))
        arrays = self._read(step, manifest)
        manifests.check_hashes(manifest, arrays, self._where(step))
        leaves = [arrays[name] for name in manifests.flatten_state(like)]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return _to_devices(state, sharding, self._where(step)), manifest["meta"]

    def _read(self, step: int, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
        import orbax.checkpoint as ocp

        arrays = manifests.empty_arrays(manifest)
        filled = {name: array for name, array in arrays.items() if array.size}
        try:
            restored = self._open().restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(filled)))
        except (*_STORAGE_ERRORS, KeyError) as error:  # KeyError: an array that the manifest lists is not there
            raise CheckpointError(f"checkpoint: {self._where(step)}: not readable ({_reason(error)})") from error
        return arrays | {name: np.asarray(array) for name, array in restored.state.items()}

    def _remove_old(self, newest: int) -> None:
        complete = [step for step in self.steps() if step not in self._unusable]
        kept = {newest, *complete[-self.keep :], self.best()} - self._unusable
        for step in self._folders():
            if step not in kept and (step < newest or step in self._unusable):
                self._remove(step)
        self._unusable.clear()

    def _remove(self, step: int) -> None:
        # The manifest goes first: a half-removed checkpoint is then plainly unfinished, not damaged.
        (self._folder(step) / manifests.MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(self._folder(step))
        if self._manager is not None:
            self._manager.reload()


def _reached(point: str) -> None:
    """Named points of a save (`begin`, `arrays`, `manifest`, `end`), where crash tests step in."""


def _to_devices(state: Any, sharding: Any, where: str) -> Any:
    placed = place_whole(state, sharding) if sharding is not None else jax.tree.map(jax.numpy.array, state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        if before.dtype != after.dtype:
            raise CheckpointError(
                f"checkpoint: {where}: holds {before.dtype} and JAX made it {after.dtype}; set JAX_ENABLE_X64=1"
            )
    return placed


def _check_space(directory: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Asks before Orbax's parallel writers run into a full disk, of which each prints a page."""
    needed = sum(array.nbytes + _BESIDE_ARRAY for array in arrays.values())
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{_NO_SPACE}: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return error.strerror
    # Orbax's storage library wraps it in a page about what it was writing.
    return _NO_SPACE if _NO_SPACE in text else f"{type(error).__name__}: {text[:300]}"
