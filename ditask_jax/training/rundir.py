"""The folder of a run: its configuration, and the promise that it stays the folder of one run."""

from pathlib import Path

from ml_collections import ConfigDict

from ditask_jax.config import config_diff, from_json, to_json
from ditask_jax.errors import CheckpointError
from ditask_jax.files import atomic_write_text

# Fields that change neither the numbers of a run nor their order; they may differ when a run goes on.
FREE_FIELDS = (
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint.keep",
    "data.threads",
    "data.workers",
    "data.root",
    "mesh.data",
)


class RunDir:
    """Paths inside a run's folder.

    >>> RunDir("runs/x").checkpoints.as_posix()
    'runs/x/checkpoints'
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.evaluation = self.path / "evaluation.json"

    def check(self, config: ConfigDict) -> None:
        """Checks that the folder is free or belongs to this configuration; writes nothing.

        Raises:
          CheckpointError: the folder belongs to another configuration, or the path is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"workdir: '{self.path}' is a file; give a folder")
        if self.config.exists():
            before = from_json(self.config.read_text(), str(self.config))
            differences = [line for line in config_diff(before, config) if line.split(":")[0] not in FREE_FIELDS]
            if differences:
                more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
                raise CheckpointError(
                    f"workdir: '{self.path}' holds a run of another configuration: {'; '.join(differences[:3])}{more}. "
                    "Use another --workdir, or the same configuration to go on"
                )
        elif self.checkpoints.exists() and any(self.checkpoints.iterdir()):
            raise CheckpointError(
                f"workdir: '{self.path}' holds checkpoints but no config.json; restore it, or use another --workdir"
            )

    def claim(self, config: ConfigDict) -> None:
        """Makes the folder this configuration's own; raises as `check` does."""
        self.check(config)
        atomic_write_text(self.config, to_json(config))

    def load_config(self) -> ConfigDict:
        """The configuration of the run.

        Raises:
          CheckpointError: there is no run in the folder.
        """
        if not self.config.is_file():
            raise CheckpointError(f"workdir: '{self.path}' holds no run (no config.json); train one there first")
        return from_json(self.config.read_text(), str(self.config))
