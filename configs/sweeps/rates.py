"""Which learning rate each method's parameters want, beside that of the decoders: the source of docs/rates.md.

python -m ditask_jax.sweep configs/sweeps/rates.py:scenes --workdir=runs/rates_scenes --jobs=2
python -m ditask_jax.sweep configs/sweeps/rates.py:photographs --workdir=runs/rates_photographs \
    --config.data.root=CCP --config.backbone.weights=dinov2_small.safetensors

Ten methods at three to eight settings each, 64 points: `scenes` at the size of configs/table6.py, a minute or two a
point on one core; `photographs` at 112 pixels, 150 steps of 8. Scores are those of a part of the training split
that is kept aside, with a seed that no table uses. `results/points.csv` ranks the points of each method. Of what is
best write the factors, and what was found, into `tuned` of the method (`ditask_jax/adapters/methods/`).
"""

from ditask_jax.errors import check_known
from ditask_jax.sweeps import Point, Sweep

PUBLISHED = ("patch_embed", "norms", "relative_position_bias_table", "reduction")
# What trains beside adapters: nothing, or more of the backbone at the rate that suits it where features fit or do not.
BESIDE = {
    "scenes": {"alone": ((), 1.0), "set": (PUBLISHED, 1.0)},
    "photographs": {"alone": ((), 1.0), "norms": (("norms",), 0.1)},
}
SPECTRAL, LOW_RANK = (3.0, 10.0, 30.0, 100.0), (0.1, 0.3, 1.0, 3.0)
ADAPTERS = {
    "ditask": (SPECTRAL, {}),
    "svf": (SPECTRAL, {}),
    "lora": (LOW_RANK, {"method.rank": 8}),
    "dora": (LOW_RANK, {"method.rank": 8}),
    "mtlora": (LOW_RANK, {"method.shared_rank": 8}),
    "adapter": (LOW_RANK, {}),
}
SUBSETS = {"bitfit": (0.1, 0.3, 1.0, 3.0), "norm": (0.1, 0.3, 1.0, 3.0), "full": (0.01, 0.03, 0.1, 0.3, 1.0)}
DECODERS = (0.3, 1.0, 3.0)
SEED = 100

SETTINGS = {
    "scenes": ("configs/table6.py", {"data.held_aside": 0.125, "checkpoint_every_steps": None}, "delta_m"),
    "photographs": (
        "configs/ccp_dinov2_small.py",
        {
            "data.held_aside": 0.2,
            "image_size": 112,
            "batch_size": 8,
            "total_steps": 150,
            "head.widths": (24, 24, 24, 24),
            # Per 512 images: an effective peak of 3e-3.
            "optimizer.learning_rate": 0.192,
            "optimizer.warmup_learning_rate": 1.92e-4,
            "optimizer.min_learning_rate": 1.92e-4,
            "optimizer.warmup_steps": 15,
            "optimizer.schedule": "cosine",
            "optimizer.weight_decay": 0.01,
            "checkpoint_every_steps": None,
        },
        "semseg/mIoU",
    ),
}


def get_sweep(variant: str = "scenes") -> Sweep:
    """Returns the points of one setting; those of a method follow each other."""
    check_known("sweep: rates variant", variant, SETTINGS)
    config, overrides, metric = SETTINGS[variant]
    points = []

    def add(method: str, words: str, rates: dict[str, float], changes: dict | None = None) -> None:
        fields = {"method.name": method, **(changes or {}), "optimizer.rates": rates, "seed": SEED}
        points.append(Point(f"{method}_{words}", config, fields))

    for factor in DECODERS:
        add("frozen", f"decoders{factor:g}", {"decoders": factor})
    for method, factors in SUBSETS.items():
        for factor in factors:
            add(method, f"pretrained{factor:g}", {"pretrained": factor})
    for method, (factors, changes) in ADAPTERS.items():
        for name, (unfrozen, pretrained) in BESIDE[variant].items():
            for factor in factors:
                rates = {"adapters": factor, "pretrained": pretrained}
                add(method, f"{name}_adapters{factor:g}", rates, {**changes, "method.unfrozen": unfrozen})
    return Sweep(points, overrides=overrides, metric=metric)
