"""The two PVT families: the names of the authors' checkpoints and of timm's, and sizes told from shapes."""

from typing import Any

from ditask_jax.backbones.pvt import PvtConfig
from ditask_jax.backbones.pvt_v2 import PvtV2Config
from ditask_jax.conversion.layouts import Family, Layout, Shapes, Size, count, shape_of, square_side
from ditask_jax.conversion.pvt import TIMM_V2, V1, V2


def _stages(arrays: Shapes) -> tuple[int, list[tuple[int, ...]], dict[str, Any]]:
    """Number of stages, kernels of the patch embeddings, and the fields that both generations share."""
    number = count(arrays, "backbone/stages/{}/")
    embeds = [shape_of(arrays, f"backbone/stages/{stage}/patch_embed/kernel", 4) for stage in range(max(number, 1))]
    hidden = [shape_of(arrays, f"backbone/stages/{i}/blocks/0/mlp/fc1/kernel", 2) for i in range(number)]
    fields = {
        "channels": tuple(shape[3] for shape in embeds),
        "depths": tuple(count(arrays, f"backbone/stages/{stage}/blocks/{{}}/") for stage in range(number)),
        "mlp_ratios": tuple(wide // inner for inner, wide in hidden),
    }
    return number, embeds, fields


def _reductions(arrays: Shapes, stages: int) -> tuple[int, ...]:
    paths = [f"backbone/stages/{stage}/blocks/0/attn/spatial_reduction/kernel" for stage in range(stages)]
    return tuple(shape_of(arrays, path, 4)[0] if path in arrays else 1 for path in paths)


def infer_first(arrays: Shapes) -> dict[str, Any]:
    """The fields of a `PvtConfig`, heads apart: no shape tells those."""
    stages, embeds, fields = _stages(arrays)
    return fields | {"reductions": _reductions(arrays, stages), "patch": embeds[0][0]}


def infer_second(arrays: Shapes) -> dict[str, Any]:
    """The fields of a `PvtV2Config`, heads apart; the linear kind shrinks by averages, which have no shapes."""
    stages, embeds, fields = _stages(arrays)
    reductions = _reductions(arrays, stages)
    last = f"backbone/stages/{stages - 1}/blocks/0/attn/spatial_reduction/kernel"
    fields |= {"patch": (embeds[0][0] + 1) // 2, "linear": last in arrays}
    return fields if fields["linear"] else fields | {"reductions": reductions}


def _first_size(fields: dict[str, Any], arrays: Shapes) -> Size:
    """From the first stage's position embeddings, taken for a square."""
    path = "backbone/stages/0/position_embedding"
    side = fields["patch"] * square_side(shape_of(arrays, path, 2)[0], path)
    return side, side


def _second_size(fields: dict[str, Any], arrays: Shapes) -> Size:
    return 224, 224  # any size will do: no array depends on it


PVT = Family("PVT", PvtConfig, infer_first, _first_size, resized=r".*/position_embedding")
PVT_V2 = Family("PVT v2", PvtV2Config, infer_second, _second_size, resized=r"$^")


PVT_OFFICIAL = Layout("official", PVT, V1, marks=(r"block1\.0\.attn\.kv\.weight$", r"pos_embed1$"))
PVT_V2_OFFICIAL = Layout(
    "official", PVT_V2, V2, marks=(r"block1\.0\.attn\.kv\.weight$", r"block1\.0\.mlp\.dwconv\.dwconv\.weight$")
)
PVT_V2_TIMM = Layout(
    "timm", PVT_V2, TIMM_V2, marks=(r"stages\.0\.blocks\.0\.attn\.kv\.weight$", r"stages\.1\.downsample\.proj\.")
)
