"""Builders of the multi-task data sets over the trees of `ditask_jax.data.benchmarks`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from ditask_jax.data import image_files
from ditask_jax.data.benchmarks import SPLITS, Tree, open_tree
from ditask_jax.data.benchmarks.bsds import LAYOUTS, BsdsTree
from ditask_jax.data.benchmarks.camvid import SCORED, CamvidTree
from ditask_jax.data.benchmarks.ccp import CcpTree
from ditask_jax.data.benchmarks.cityscapes import CityscapesTree, MtanTree
from ditask_jax.data.benchmarks.nyud import PACKAGES, NyudTree
from ditask_jax.data.benchmarks.pascal import PascalTree
from ditask_jax.data.benchmarks.tree import DEPTH_FACTOR, DTYPES, Record, finish


def label_feature(form: str) -> tfds.features.FeatureConnector:
    """How a label of a stored form (`trees.record`) is kept: its plain numbers, for shards are compressed anyway.

    As PNG files, labels would take three times as long to read, and directions half the room.
    """
    shape = (None, None, 3) if form in ("colours", "vectors") else (None, None)
    return tfds.features.Tensor(shape=shape, dtype=DTYPES[form], encoding=tfds.features.Encoding.BYTES)


class _OwnInfo(tfds.core.DatasetInfo):
    """What describes a set of the user's own files, of which nothing is published."""

    def initialize_from_bucket(self) -> None:
        """Nothing: tensorflow-datasets would ask Google's servers, and leave an empty folder among temporary files."""


class _MultiTaskBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A multi-task data set, prepared from the user's own files in `manual_dir`.

    Args:
      tasks: labels to keep; None: the usual ones of the data set.
      depth_unit, semseg_classes: as of `open_tree`.
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
        **options,
    ) -> None:
        self._asked_tasks = None if tasks is None else tuple(tasks)
        self._depth_unit = depth_unit
        self._semseg_classes = semseg_classes
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
        return _OwnInfo(
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
            yield number, read_features(tree, split, name, self._tasks)


def read_features(tree: Tree, split: str, name: str, tasks: Sequence[str]) -> dict:
    """The features of one example of a tree.

    Raises:
      DataError: a file is missing or damaged, or a label does not fit its image.
    """
    record = tree.record(split, name, tasks)
    finish(record, tree.forms, tree.resizes_labels)  # finds a label that does not fit before training does
    return encode(record, tree.forms)


def encode(record: Record, forms: dict[str, str]) -> dict:
    """The features of a record: bytes and arrays."""
    image = record.content if record.content is not None else image_files.encode_png(record.image)
    labels = {task: np.asarray(values, DTYPES[forms[task]]) for task, values in record.values.items()}
    return {"image": image, "id": record.name, **labels, **record.constants}


def serialize(features: tfds.features.FeaturesDict, example: dict) -> bytes:
    """An example as it stands in a shard; equal examples give equal bytes."""
    content = features.serialize_example(example)
    # Protocol buffers write their maps in any order unless they are told not to.
    return tf_example_pb2.Example.FromString(content).SerializeToString(deterministic=True)


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


class CcpMt(_MultiTaskBuilder):
    """Clothing Co-Parsing multi-task."""

    DATA_SET = "ccp"
    TITLE = "Clothing Co-Parsing"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder of the clone, which holds photos and annotations."

    def _tree(self, root: Path) -> Tree:
        return CcpTree(root)


class CamvidMt(_MultiTaskBuilder):
    """CamVid multi-task, one configuration per folder that is scored."""

    DATA_SET = "camvid"
    TITLE = "CamVid"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder CamVid of the clone."
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SCORED]  # noqa: RUF012

    def _tree(self, root: Path) -> Tree:
        return CamvidTree(root, self.builder_config.name)


class BsdsMt(_MultiTaskBuilder):
    """BSDS500, one configuration per part that is scored."""

    DATA_SET = "bsds"
    TITLE = "BSDS500"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder BSDS500 of the clone."
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in LAYOUTS]  # noqa: RUF012

    def _tree(self, root: Path) -> Tree:
        return BsdsTree(root, self.builder_config.name)


BUILDERS = {builder.DATA_SET: builder for builder in (PascalMt, NyudMt, CityscapesMt, CcpMt, CamvidMt, BsdsMt)}
