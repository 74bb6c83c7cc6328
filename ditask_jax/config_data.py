"""The section `data` of a configuration: the data set, how it is read, and augmentation."""

import dataclasses

from ml_collections import ConfigDict

from ditask_jax.errors import ConfigError
from ditask_jax.options import FRACTION, POSITIVE, integer, is_number, number, one_of, option, pair, several


@dataclasses.dataclass(frozen=True)
class DataSection:
    """The data set, how it is read, and augmentation."""

    name: str = option(
        "pascal",
        "Data set: scenes (procedural, no download), folder (your own files), pascal, nyud, cityscapes, ccp, "
        "camvid, bsds, vtab.",
    )
    root: str | None = option(None, "Folder that holds the data set; none for scenes.", path=True)
    train_examples: int | None = option(
        None, "Use only this many training examples; none: all of them (scenes: its default length).", integer(1)
    )
    eval_examples: int | None = option(None, "The same for the evaluation split.", integer(1))
    seed: int = option(
        0, "Seed of generated data (scenes) and of an automatic split: another seed is another data set.", integer(0)
    )
    semseg_classes: int | None = option(
        None,
        "Number of classes of semseg labels; needed by folder, elsewhere known (cityscapes: 7 for mtan).",
        integer(2),
    )
    human_parts_classes: int | None = option(
        None, "Number of classes of human_parts labels; needed by folder, elsewhere known.", integer(2)
    )
    workers: int = option(0, "Loader processes (0: none); does not change what is read.", integer(0))
    threads: int = option(4, "Reading threads; does not change what is read.", integer(1))
    hflip: float = option(0.5, "Probability of a horizontal flip.", FRACTION)
    rotation: float = option(
        20.0,
        "Largest rotation in degrees; the angle is uniform in -rotation..rotation.",
        number("of degrees in [0, 180]", lambda x: 0 <= x <= 180),
    )
    scale: tuple[float, ...] = option(
        (0.75, 1.25), "Zoom factor: uniform in (low, high), or one of the listed factors (scales_are_choices)."
    )
    scales_are_choices: bool = option(False, "Whether scale lists factors to choose from.")
    pad_ignore: bool = option(
        False,
        "Whether pixels brought in by a rotation or zoom are ignored (false: class 0, as upstream, but in tasks that "
        "task.NAME.kind declares).",
    )
    erode_normals: int = option(
        0,
        "Pixels by which labelled areas of normals shrink in training: cubic interpolation leaves rings of noise "
        "around unlabelled areas (0: keep them, as upstream).",
        integer(0),
    )
    ignore_empty_maps: bool = option(
        True, "Whether an image without people has no human_parts label (as upstream; false: it is all background)."
    )
    compat_uint8_wrap: bool = option(
        False, "Truncate and let cubic overshoot wrap around in uint8, as upstream (false: round and clip)."
    )
    resize: str = option(
        "cubic",
        'How images are resized: "cubic" (no anti-aliasing, as upstream) or "pillow" (bicubic, anti-aliased).',
        one_of("cubic", "pillow"),
    )
    fast_warp: bool = option(
        False, "One bilinear warp to the network's size; about twice as fast as the published cubic warp and resize."
    )
    layout: str | None = option(
        None,
        "Which package of nyud (astmt, vandenhende, atrc) or cityscapes (official, mtan); none: found from the files. "
        "What is scored: camvid val (none) or test, bsds test (none) or val.",
        one_of("astmt", "vandenhende", "atrc", "official", "mtan", "val", "test"),
    )
    depth_unit: str | None = option(
        None,
        "nyud: unit of the depth files, metres or millimetres (none: found from the files). folder: the same (none: "
        ".npy files of floats are metres, 16-bit PNG files millimetres, integers in .npy files are refused). "
        "cityscapes: unit of depth, pixels of disparity (none) or metres; of its mtan package, inverse.",
        one_of("metres", "millimetres", "pixels", "inverse"),
    )
    on_bad_file: str = option(
        "stop",
        'A file that is missing or damaged: "stop", or "skip" (another example takes its place, and it is counted).',
        one_of("stop", "skip"),
    )
    stall_seconds: float | None = option(
        60.0,
        "Report a batch that takes this long, and again whenever the time has doubled; none: wait in silence.",
        POSITIVE,
    )
    val_fraction: float | None = option(
        None,
        "folder: share of train/ that serves as validation where there is no val/; none: val/ is needed.",
        number("in (0, 1)", lambda x: 0 < x < 1),
    )
    mask_ignore: bool | None = option(
        None,
        'folder: what 255 means. none: "ignore" in class maps, "yes" in masks (sal, edge) of 0 and 255; true: "ignore" '
        'in masks too, where 1 is "yes"; false: "yes" in class maps of two classes too.',
    )
    subfolders: bool | None = option(
        None,
        "folder: images in folders below images/: true: read them; false: skip them; none: stop where there are any.",
    )
    held_aside: float | None = option(
        None,
        "Share of the training split that is scored in place of the evaluation split and not trained on, to choose by: "
        "the same examples for every seed and machine.",
        number("in (0, 1)", lambda x: 0 < x < 1),
    )
    vtab_task: str | None = option(None, "vtab: which of its 19 tasks, for example cifar100.")
    vtab_tuning: bool = option(
        False,
        "vtab: train on 800 images and score on 200, to choose hyper-parameters (false: 1,000, and the test set).",
    )

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises ConfigError for fields that do not fit together."""
        data = config.data
        if data.scales_are_choices:
            rule = several("one or more zoom factors above 0", lambda x: is_number(x) and x > 0)
        else:
            rule = pair("low,high with 0 < low <= high", lambda low, high: 0 < low <= high)
        rule.check("config: data.scale", data.scale)
        if data.name == "folder" and data.root is None:
            raise ConfigError(
                "config: data.root: got None, expected the folder of your images; set --config.data.root=DIR"
            )
