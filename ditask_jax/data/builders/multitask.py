"""Builders of the multi-task data sets over the trees of `ditask_jax.data.trees`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from ditask_jax.data import files
from ditask_jax.data.trees import SPLITS, Tree, open_tree
from ditask_jax.data.trees.cityscapes import CityscapesTree
from ditask_jax.data.trees.mtan import MtanTree
from ditask_jax.data.trees.nyud import PACKAGES, NyudTree
from ditask_jax.data.trees.pascal import PascalTree
from ditask_jax.data.trees.record import DEPTH_FACTOR, Record, finish
from ditask_jax.errors import DataError

IMAGE_FORMS = ("classes", "colours", "disparity")


def label_feature(form: str) -> tfds.features.FeatureConnector:
    """How a label of a stored form (`trees.record`) is kept: a PNG, or plain numbers for floats."""
    if form == "colours":
        return tfds.features.Image(shape=(None, None, 3), dtype=np.uint8, encoding_format="png")
    if form in IMAGE_FORMS:
        dtype = np.uint16 if form == "disparity" else np.uint8
        return tfds.features.Image(shape=(None, None, 1), dtype=dtype, encoding_format="png")
    shape = (None, None, 3) if form == "vectors" else (None, None)
    return tfds.features.Tensor(shape=shape, dtype=np.float32, encoding=tfds.features.Encoding.BYTES)


class _MultiTaskBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A multi-task data set, prepared from the user's own files in `manual_dir`.

    Args:
      tasks: labels to keep; None: the usual ones of the data set.
      depth_unit, semseg_classes: as of `open_tree`.
      skip_bad: leave out examples whose files are missing or damaged; they are listed in `skipped`.
      on_example: called with split and id after each example.
      options: those of every tensorflow-datasets builder; `config` names the package.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (as tensorflow-datasets wants it)
    # tensorflow-datasets would ask importlib_resources, which it uses on every Python but installs on old ones only.
    code_path = Path(__file__)
    DATA_SET: str
    TITLE: str

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        depth_unit: str | None = None,
        semseg_classes: int | None = None,
        skip_bad: bool = False,
        on_example: Callable[[str, str], None] | None = None,
        **options,
    ) -> None:
        self._asked_tasks = None if tasks is None else tuple(tasks)
        self._depth_unit = depth_unit
        self._semseg_classes = semseg_classes
        self._skip_bad = skip_bad
        self._on_example = on_example
        self.failure: DataError | None = None
        self.skipped: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
        super().__init__(**options)

    def _tree(self, root: Path) -> Tree:
        """The tree in a folder that is not looked at yet."""
        raise NotImplementedError

    @property
    def _tasks(self) -> tuple[str, ...]:
        return self._asked_tasks or self._tree(Path()).usual_tasks

    def _info(self) -> tfds.core.DatasetInfo:
        forms = self._tree(Path()).forms
        labels = {task: label_feature(forms[task]) for task in self._tasks}
        if "depth" in self._tasks and forms["depth"] == "disparity" and self._depth_unit == "metres":
            labels[DEPTH_FACTOR] = tfds.features.Scalar(dtype=np.float64)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.TITLE} with the labels {' '.join(self._tasks)}, as prepared by ditask_jax.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(None, None, 3)), "id": tfds.features.Text(), **labels}
            ),
            # In the order of the original lists: both ways of reading then see the same batches.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        layout = self.builder_config.name if self.builder_config else None
        tree = open_tree(self.DATA_SET, dl_manager.manual_dir, layout, self._depth_unit, self._semseg_classes)
        tree.check_tasks(self._tasks)
        return {split: self._generate_examples(tree, split) for split in SPLITS}

    def _generate_examples(self, tree: Tree, split: str) -> Iterator[tuple[int, dict]]:
        for number, name in enumerate(tree.ids(split)):
            try:
                record = tree.record(split, name, self._tasks)
                finish(record, tree.forms, tree.resizes_labels)  # finds a label that does not fit before training does
            except DataError as error:
                if not self._skip_bad:
                    self.failure = error  # tensorflow-datasets rewrites messages
                    raise
                self.skipped[split][name] = str(error)
                continue
            finally:
                if self._on_example is not None:
                    self._on_example(split, name)
            yield number, encode(record, tree.forms)
        count, skipped = len(tree.ids(split)), self.skipped[split]
        if len(skipped) == count:
            last = list(skipped.values())[-1]
            self.failure = DataError(
                f"{tree.name}: not one of the {count} examples of {split} can be read; the last: {last}"
            )
            raise self.failure


def encode(record: Record, forms: dict[str, str]) -> dict:
    """The features of a record: bytes and arrays."""
    image = record.content if record.content is not None else files.encode_png(record.image)
    labels = {
        task: files.encode_png(values) if forms[task] in IMAGE_FORMS else values
        for task, values in record.values.items()
    }
    return {"image": image, "id": record.name, **labels, **record.constants}


class PascalMt(_MultiTaskBuilder):
    """PASCAL-Context multi-task."""

    DATA_SET = "pascal"
    TITLE = "PASCAL-Context"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder that PASCAL_MT.tgz unpacks to."

    def _tree(self, root: Path) -> Tree:
        return PascalTree(root)


class NyudMt(_MultiTaskBuilder):
    """NYUDv2 multi-task, one configuration per package."""

    DATA_SET = "nyud"
    TITLE = "NYUDv2"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder that NYUD_MT.tgz or NYUDv2.tar.gz unpacks to."
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in PACKAGES]  # noqa: RUF012

    def _tree(self, root: Path) -> Tree:
        return NyudTree(root, self.builder_config.name, self._depth_unit or "metres")


class CityscapesMt(_MultiTaskBuilder):
    """Cityscapes multi-task: the official tree or the MTAN package."""

    DATA_SET = "cityscapes"
    TITLE = "Cityscapes"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder that holds leftImg8bit, gtFine and disparity (or the MTAN package)."
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("official", "mtan")]  # noqa: RUF012

    def _tree(self, root: Path) -> Tree:
        if self.builder_config.name == "mtan":
            return MtanTree(root, self._semseg_classes or 19)
        return CityscapesTree(root, self._depth_unit or "pixels")


BUILDERS = {builder.DATA_SET: builder for builder in (PascalMt, NyudMt, CityscapesMt)}
