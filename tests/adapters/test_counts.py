"""Parameter counts: every row of the published table and of the recount of the reference implementations, exactly."""

import pytest

from configs.pascal_swin_tiny import VARIANTS
from ditask_jax.adapters import method_names
from ditask_jax.config import load_config
from ditask_jax.describe.summary import by_role, describe, describe_difference, describe_text, difference_text
from ditask_jax.training.experiment import describe_plan

PASCAL = "configs/pascal_swin_tiny.py"
DECODER = 1_946_624


def plan_of(variant: str = "", *overrides: str):
    return describe_plan(load_config(f"{PASCAL}:{variant}" if variant else PASCAL, overrides))


def swin(size: str) -> str:
    return f"backbone.name=swin_{size}_patch4_window7"


def cells(shared: int, task: int) -> tuple[str, str]:
    return f"method.shared_cells={shared}", f"method.task_cells={task}"


def ranks(shared: int, task: int) -> tuple[str, str]:
    return f"method.shared_rank={shared}", f"method.task_rank={task}"


# (variant, overrides, backbone, decoder), as the reference implementations count.
UPSTREAM = [
    ("mtlora_r16", (), 3_006_522, DECODER),
    ("mtlora_r32", (), 4_137_018, DECODER),
    ("mtlora_r64", (), 6_398_010, DECODER),
    ("mtlora_r16", ranks(4, 4), 2_158_650, DECODER),
    ("mtlora_r16", ranks(8, 8), 2_717_754, DECODER),
    ("mtlora_r16", ranks(16, 16), 3_835_962, DECODER),
    ("mtlora_r16", ("tasks=semseg", *ranks(4, 4)), 1_951_290, 500_709),
    ("mtlora_r16", ("tasks=semseg", *ranks(8, 8)), 2_303_034, 500_709),
    ("mtlora_r16", ("tasks=semseg", *ranks(16, 16)), 3_006_522, 500_709),
    ("mtlora_r64", (swin("small"),), 11_159_370, DECODER),
    ("mtlora_r64", (swin("base"),), 15_567_288, 2_190_848),
    ("mtlora_r64", (swin("large"),), 25_415_316, 2_679_296),
    ("lora_r4", (), 1_882_170, DECODER),
    ("lora_r8", (), 2_164_794, DECODER),
    ("ditask", (), 1_608_618, DECODER),
    ("ditask_64_4", (), 1_602_858, DECODER),
    ("ditask", cells(16, 16), 1_601_706, DECODER),
    ("ditask", cells(16, 4), 1_600_554, DECODER),
    ("ditask", cells(32, 32), 1_604_010, DECODER),
    ("ditask", cells(32, 4), 1_601_322, DECODER),
    ("ditask", cells(128, 4), 1_605_930, DECODER),
    ("ditask", cells(128, 64), 1_611_690, DECODER),
    ("ditask", cells(128, 128), 1_617_834, DECODER),
    ("ditask_single", cells(64, 4), 1_602_642, 500_709),
    ("ditask_single", cells(64, 64), 1_604_082, 500_709),
    ("ditask_single", cells(128, 4), 1_605_714, 500_709),
    ("ditask_single", cells(128, 128), 1_608_690, 500_709),
    ("ditask", (swin("small"), *cells(128, 64)), 1_663_578, DECODER),
    ("ditask", (swin("base"), *cells(128, 64)), 2_899_144, 2_190_848),
    ("ditask", (swin("large"), *cells(128, 64)), 6_402_468, 2_679_296),
    ("ditask", (swin("small"), *cells(64, 4)), 1_648_794, DECODER),
    ("ditask", (swin("base"), *cells(64, 4)), 2_884_360, 2_190_848),
    ("ditask", (swin("large"), *cells(64, 4)), 6_387_684, 2_679_296),
    ("full", (), 27_517_818, DECODER),
    ("full", (swin("small"),), 48_835_722, DECODER),
    ("full", (swin("base"),), 86_741_176, 2_190_848),
    ("full", (swin("large"),), 194_992_404, 2_679_296),
    ("single", (), 27_517_818, 500_709),
    ("single", ("tasks=normals",), 27_517_818, 481_251),
    ("single", ("tasks=sal",), 27_517_818, 479_089),
    ("single", ("tasks=human_parts",), 27_517_818, 485_575),
    ("frozen", (), 0, DECODER),
    ("ditask_64_4", ("data.name=nyud", "tasks=semseg+depth+normals+edge"), 1_602_858, 1_960_677),
]


@pytest.mark.parametrize(("variant", "overrides", "backbone", "decoder"), UPSTREAM)
def test_counts_of_the_originals(variant, overrides, backbone, decoder):
    plan = plan_of(variant, *overrides)
    assert plan.upstream == {"trainable_backbone": backbone, "trainable_total": backbone + decoder}
    assert plan.trainable_backbone + sum(plan.upstream_extra.values()) == backbone
    # The difference is dead: named, with its reason, and not created here.
    assert all(count > 0 and "unused" in reason for reason, count in plan.upstream_extra.items())


# (variant, backbone): what really trains on Swin-Tiny with four tasks.
LIVE = {
    "ditask": 1_605_405,
    "ditask_64_4": 1_602_525,
    "ditask_index": 1_605_405,
    "ditask_shared": 1_602_570,
    "ditask_task": 1_602_570,
    "ditask_headroom": 1_605_405,
    "ditask_no_decay": 1_605_405,
    "ditask_thetas": 5_859,
    "ditask_pcgrad": 1_605_405,
    "ditask_single": 1_603_137,
    "no_transform": 1_599_546,
    "svf": 1_641_018,
    "lora_r4": 1_882_170,
    "lora_r8": 2_164_794,
    "dora": 2_204_538,
    "mtlora_r16": 2_945_082,
    "mtlora_r32": 4_014_138,
    "mtlora_r64": 6_152_250,
    "adapter": 2_740_410,
    "lora_xs": 1_602_618,
    "psoft": 1_603_143,
    "svft": 1_697_280,
    "vera": 1_693_050,
    "hra": 1_879_098,
    "ia3": 1_646_010,
    "faar": 9_084_090,
    "bitfit": 51_456,
    "norm": 23_232,
    "full": 27_517_818,
    "frozen": 0,
    "single": 27_517_818,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_live_counts(variant):
    assert plan_of(variant).trainable_backbone == LIVE[variant]


def test_every_method_is_a_variant():
    names = {load_config(f"{PASCAL}:{variant}").method.name for variant in VARIANTS}
    assert names == set(method_names())


def test_cells_and_ranks_per_stage_and_task():
    """On Swin-Tiny (2, 2, 6, 2 blocks): four thetas a block but for the last three, and three per task and stage."""
    per_stage = "method.shared_cells=3,5,9,17"
    per_task = "method.task_cells={'semseg': 2, 'human_parts': (2, 3, 4, 5), 'sal': 6, 'normals': 7}"
    groups = plan_of("ditask", per_stage, per_task).groups
    assert groups["adapter shared"] == 4 * (2 * 2 + 2 * 4 + 6 * 8 + 2 * 16) - 3 * 16
    assert groups["adapter task"] == 3 * (4 * 1 + (1 + 2 + 3 + 4) + 4 * 5 + 4 * 6)
    low = plan_of("mtlora_r16", "method.shared_rank=1,2,3,4", "method.task_rank=(4,3,2,1)")
    channels = (96, 192, 384, 768)
    shared = sum(r * blocks * 16 * c for r, blocks, c in zip((1, 2, 3, 4), (2, 2, 6, 2), channels, strict=True))
    assert low.groups["adapter shared"] == shared - 4 * 5 * 768
    assert low.groups["adapter task"] == sum(
        4 * r * (2 + 5 + 5) * c for r, c in zip((4, 3, 2, 1), channels, strict=True)
    )


def test_more_task_blocks_take_more_streams():
    one, two = plan_of("ditask"), plan_of("ditask", "method.task_blocks=2")
    assert two.groups["adapter task"] == 2 * one.groups["adapter task"]
    # In the last stage the shared stream ends where the tasks' begin.
    assert one.groups["adapter shared"] - two.groups["adapter shared"] == 3 * 63
    assert plan_of("ditask", "method.task_blocks=9").groups["adapter task"] == 12 * 3 * 4 * 63


def test_describe_tells_roles_storage_and_differences():
    config, other = load_config(PASCAL), load_config(f"{PASCAL}:mtlora_r16", ["batch_size=64"])
    told = describe(config)
    roles = told["roles"]
    assert roles == by_role(describe_plan(config))
    assert sum(entry["shared"] + entry["task"] for entry in roles.values()) == 1_605_405 - 1_599_546
    assert roles["qkv"] == {"layers": 12, "shared": 12 * 63, "task": 0}
    assert roles["fc2"] == {"layers": 12, "shared": 11 * 63, "task": 4 * 4 * 63}
    storage = told["gradient_storage"]["layers"]["backbone/stages/0/blocks/0/mlp/fc1"]
    assert storage == {"ditask": 64 + 96 + 96 * 384, "lora": 4 * 384 * (384 + 96) + 96 * 384}
    packed = told["gradient_storage"]["layers"]["backbone/stages/0/blocks/0/attn/qkv"]
    assert packed["ditask"] == 64 + 3 * 96 + 96 * 288
    assert told["schedule"]["steps_per_epoch"] == 156
    assert told["schedule"]["total_steps"] == 46_800
    assert told["schedule"]["learning_rate"] == pytest.approx(3.125e-5)
    text = describe_text(config)
    assert "fc2: 12 layers, shared 693, task 1,008" in text
    assert "upstream trainable_backbone" in text

    difference = describe_difference(config, other)
    assert "method.name: 'ditask' -> 'mtlora'" in difference["config"]
    assert difference["counts"]["trainable_backbone"] == [1_605_405, 2_945_082]
    assert difference["counts"]["upstream trainable_total"] == [3_555_242, 4_953_146]
    assert difference["groups"]["adapter task"] == [3_024, 276_480]
    assert difference["schedule"]["total_steps"] == [46_800, 23_400]
    assert "adapter task: 3,024 -> 276,480" in difference_text(difference)
    assert difference_text(describe_difference(config, config)) == "no difference"
