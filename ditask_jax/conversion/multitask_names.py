"""Names around the backbone in DiTASK's and MTLoRA's training checkpoints: transforms, necks and decoders."""

import re

from ditask_jax.conversion.names import FIRST, POINTWISE, TRANSPOSE, Rule

# Buffers that PyTorch stores and we compute.
DERIVED = re.compile(r"(attn_mask|relative_position_index|num_batches_tracked)$")
_HEAD = "decoders.decoders.{task}.last_layer"

DECODERS: tuple[Rule, ...] = (
    Rule("downsampler.{task}.downsample_{stage}.weight", "necks/{task}/convs/{stage}/kernel", POINTWISE),
    Rule(f"{_HEAD}.0.weight", "heads/{task}/widen/kernel", POINTWISE),
    Rule(f"{_HEAD}.0.bias", "heads/{task}/widen/bias"),
    Rule(f"{_HEAD}.1.weight", "heads/{task}/norm/scale"),
    Rule(f"{_HEAD}.1.bias", "heads/{task}/norm/bias"),
    Rule(f"{_HEAD}.1.running_mean", "heads/{task}/norm/mean"),
    Rule(f"{_HEAD}.1.running_var", "heads/{task}/norm/variance"),
    Rule(f"{_HEAD}.3.weight", "heads/{task}/classify/kernel", POINTWISE),
    Rule(f"{_HEAD}.3.bias", "heads/{task}/classify/bias"),
)


def thetas(block: str, our_block: str, linears: tuple[str, ...]) -> list[Rule]:
    """Rules of the transforms in a block's dense layers, shared and per task."""
    rules = []
    for name in linears:
        ours = f"{our_block}/{name.replace('.', '/')}/adapter"
        rules.append(Rule(f"{block}.{name}.lora_shared_A", f"{ours}/theta_shared", FIRST))
        rules.append(Rule(f"{block}.{name}.lora_tasks_A.{{task}}", f"{ours}/theta_{{task}}", FIRST))
    return rules


def low_rank(block: str, our_block: str, linears: tuple[str, ...]) -> list[Rule]:
    """Rules of MTLoRA's matrices in a block's dense layers. DiTASK's checkpoints call a theta what is a matrix here."""
    rules = []
    for name in linears:
        theirs, ours = f"{block}.{name}", f"{our_block}/{name.replace('.', '/')}/adapter"
        for letter in "AB":
            rules.append(Rule(f"{theirs}.lora_shared_{letter}", f"{ours}/{letter.lower()}_shared", TRANSPOSE))
            rules.append(Rule(f"{theirs}.lora_tasks_{letter}.{{task}}", f"{ours}/{letter.lower()}_{{task}}", TRANSPOSE))
        rules.append(Rule(f"{theirs}.lora_norm.weight", f"{ours}/norm_scale_shared"))
        rules.append(Rule(f"{theirs}.lora_norm.bias", f"{ours}/norm_bias_shared"))
    return rules
