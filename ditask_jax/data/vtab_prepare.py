"""Prepares the catalogue sets behind VTAB-1k with tensorflow-datasets: the one place that needs TensorFlow."""

import importlib.util
from pathlib import Path

from ditask_jax.data.vtab_tasks import vtab_task
from ditask_jax.errors import DataError
from ditask_jax.files import locked, user_path


def prepare_vtab(task: str, out: str | Path, manual_dir: str | Path | None = None) -> Path:
    """Downloads the catalogue set of a task and writes it as array records, which are read without TensorFlow.

    A finished set is left as it is; an interrupted one starts anew from the files already downloaded.

    Args:
      task: a key of `VTAB_TASKS`; tasks of one catalogue set (`clevr_count`, `clevr_dist`) share it.
      out: folder of the prepared sets: `data.root` of training.
      manual_dir: archives that must be fetched by hand (resisc45, diabetic_retinopathy).

    Returns:
      The folder of the prepared set.

    Raises:
      ConfigError: unknown task.
      DataError: TensorFlow is not installed, or preparing failed.
    """
    spec, out = vtab_task(task), user_path(out, "vtab: out")
    # tensorflow-datasets uses the second wherever it writes a set of its catalogue, and does not ask for it.
    missing = [name for name in ("tensorflow", "importlib_resources") if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(
            f"vtab: preparing '{task}' from tensorflow-datasets needs {' and '.join(missing)}, not installed here: "
            "pip install 'ditask_jax[data]' (reading the prepared set needs neither, lists of files never do)"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(spec.builder, data_dir=str(out), file_format="array_record")
        folder = None if manual_dir is None else str(user_path(manual_dir, "vtab: manual_dir"))
        lock = out / f".{spec.builder}.lock"
        with locked(lock, "vtab", "preparation", "wait for it, or use another --out", DataError):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    except DataError:
        raise
    except Exception as error:  # whatever a catalogue script raises on a failed download or a missing archive
        raise DataError(f"vtab: preparing '{task}' failed: {_first_line(error)}") from error
    return Path(str(builder.data_path))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
