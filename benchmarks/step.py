"""A training step and inference, against what the machine can do and against PyTorch, all measured in turns.

python benchmarks/step.py --config=configs/pascal_swin_tiny.py --batch-size=1,2,4 --peers --json=step.json
python benchmarks/step.py --config=configs/pascal_swin_tiny.py --batch-size=1 --split
python benchmarks/step.py --config=configs/pascal_swin_tiny.py --batch-size=1 --inference
python benchmarks/step.py --config=configs/pascal_swin_tiny.py --batch-size=1,8,64 --memory
python benchmarks/step.py --config=configs/pascal_swin_tiny.py --batch-size=64 --dtype=bfloat16 --profile=traces
python benchmarks/step.py --config=configs/smoke.py

Every round runs each row, so that other programs disturb all rows alike; of two steps one after another the second is
timed. Times are medians over rounds, by the clock and of the processor (all threads), ratios are medians of the ratios
within rounds. A step is the trainer's own, its state donated. "Needed" work counts products only, each adapted layer in
the cheaper of its two ways (benchmarks/counting.py); the floor is that work at the rate of the fastest product measured
beside it. `--peers` (needs the packages of the extra `bench`) runs PyTorch on the same batch in the same process with
as many threads: transformers' Swin fully fine-tuned, the same with peft's LoRA of rank 64, and DiTASK in plain PyTorch;
and our full fine-tuning beside them. Fields of the configuration are overridden by `--config.FIELD=VALUE`.

On a GPU the same commands run there; `--profile` prints the kernels that take most of a step.
"""

import argparse
import os
import pathlib
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.timing import in_turns, median, ratio
from ditask_jax.files import json_text


def main(argv: list[str] | None = None) -> int:
    """Measures what is asked for; prints Markdown tables."""
    args = _arguments(argv)
    import jax

    from benchmarks import report
    from ditask_jax.config import load_config

    override = [*args.overrides, *([f"compute_dtype={args.dtype}"] if args.dtype else [])]
    load = lambda batch, *more: load_config(args.config, [f"batch_size={batch}", *override, *more])
    device = jax.devices()[0]
    found = {"config": args.config, "platform": device.platform, "device": device.device_kind}
    found |= {"cores": len(os.sched_getaffinity(0)), "jax": jax.__version__, "rounds": args.rounds}
    for batch in args.batch_size:
        config = load(batch)
        entry = found.setdefault("batches", {}).setdefault(str(batch), {})
        if args.memory:
            entry["memory"] = measure_memory(config)
        elif args.inference:
            entry["inference"] = measure_inference(load, batch, args.rounds)
        else:
            entry |= measure_steps(config, args)
        print(report.table(batch, entry), flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json_text(found, indent=2) + "\n", encoding="utf-8")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    sizes = lambda text: [int(part) for part in text.split(",")]
    parser.add_argument("--config", default="configs/smoke.py", help="configuration, with an optional :VARIANT")
    parser.add_argument("--batch-size", type=sizes, default=[1], metavar="N,N", help="batch sizes (default 1)")
    # As it was spelt before.
    parser.add_argument("--batch", type=sizes, default=argparse.SUPPRESS, dest="batch_size", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7, help="times that each row is measured (default 7)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the products; default: the configuration's"
    )
    parser.add_argument("--peers", action="store_true", help="also the PyTorch peers")
    parser.add_argument("--split", action="store_true", help="also parts of the step, as programs of their own")
    parser.add_argument("--inference", action="store_true", help="merged inference in place of training")
    parser.add_argument("--memory", action="store_true", help="compile only, and print the memory of a step")
    parser.add_argument("--profile", metavar="DIR", help="trace one step into this folder and print its top kernels")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args, rest = parser.parse_known_args(argv)
    args.overrides = [word.removeprefix("--config.") for word in rest]
    if not all(word.startswith("--config.") and "=" in word for word in rest):
        parser.error(f"unknown options: {' '.join(rest)}; fields are overridden by --config.FIELD=VALUE")
    return args


def measure_steps(config, args: argparse.Namespace) -> dict:
    """Times of the step, of full fine-tuning, of the machine and, if asked, of parts and peers."""
    from benchmarks import counting, kernels, machine
    from benchmarks.ours import Ours, runner
    from ditask_jax.backbones.geometry import as_size
    from ditask_jax.backbones.swin import Swin
    from ditask_jax.training.experiment import build_method, build_model

    ours = {"ours": Ours(config)}
    if args.peers:
        ours["ours, full fine-tuning"] = Ours(_with(config, {"method.name": "full"}))
    rows, programs, facts = {}, {}, {}
    for name, own in ours.items():
        rows[name], programs[name] = own.train_step()
    chosen = ours["ours"]
    if args.split:
        from benchmarks.pieces import stage_pieces

        for name, (function, arguments) in (chosen.pieces() | stage_pieces(chosen)).items():
            rows[f"part: {name}"], programs[f"part: {name}"] = runner(function, arguments)
    products = machine.product_rows(chosen.dtype)
    copy, copied = machine.copy_row()
    rows |= {name: run for name, (run, _) in products.items()} | {"copy": copy}
    if args.peers:
        rows |= peer_rows(config, chosen)
    print(f"batch {config.batch_size}: {len(rows)} rows in {args.rounds} rounds", file=sys.stderr, flush=True)
    times = in_turns(rows, args.rounds, settle=1)
    rates = {name: work / median(times[name]) for name, (_, work) in products.items()}
    if isinstance(chosen.model.backbone, Swin):
        for name, own in ours.items():
            model, size = build_model(own.config, abstract=True), as_size(own.config.image_size)
            facts[name] = counting.needed(model, own.plan, build_method(own.config), size, own.config.batch_size)
    found = {
        "machine": {"product_flops": rates, "copy_bytes": copied / median(times["copy"])},
        "wrap_seconds": chosen.wrap_seconds,
        "programs": {name: program.facts() for name, program in programs.items()},
        "needed_flops": facts,
        "rows": {name: _row(times, name) for name in rows},
        "ratios": {name: ratio(times, "ours", name) for name in rows if name.startswith("peer")},
        "cpu_ratios": {name: ratio(times, "ours", name, "cpu") for name in rows if name.startswith("peer")},
    }
    if args.peers:
        full = "ours, full fine-tuning"
        found["full_ratio"] = ratio(times, full, "peer: full")
        found["full_cpu_ratio"] = ratio(times, full, "peer: full", "cpu")
    if facts:
        floor = facts["ours"]["total"] / max(rates.values())
        found |= {"floor_seconds": floor, "share_of_floor": floor / median(times["ours"])}
    if args.profile:
        found["kernels"] = kernels.top(rows["ours"], args.profile)
    return found


def _row(times: dict, name: str) -> dict[str, float]:
    clock, processor = times[name]["wall"], times[name]["cpu"]
    return {
        "seconds": median(times[name]),
        "best_seconds": min(clock),
        "cpu_seconds": median(times[name], "cpu"),
        "best_cpu_seconds": min(processor),
    }


def _with(config, changes: dict):
    """A copy of a configuration with other values."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(changes)
    return copy


def peer_rows(config, chosen) -> dict:
    """The PyTorch peers as functions without arguments, on our batch."""
    import torch

    from benchmarks import torch_peers
    from ditask_jax.backbones.geometry import as_size
    from ditask_jax.model import DEFAULT_WIDTHS

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(config.seed)
    images, labels = torch_peers.tensors(chosen.batch, chosen.model.mean, chosen.model.std)
    outputs = {task.name: task.num_outputs for task in chosen.tasks}
    weights = {task.name: task.loss_weight for task in chosen.tasks}
    options = {
        "cells": (config.method.shared_cells, config.method.task_cells),
        "drop_path_rate": config.backbone.drop_path_rate,
        "dropout": config.method.dropout,
        "examples": config.batch_size,
    }
    rows = {}
    for name in torch_peers.PEERS:
        side, widths = as_size(config.image_size)[0], config.head.widths or DEFAULT_WIDTHS
        model = torch_peers.build(name, chosen.model.backbone.config, side, outputs, widths, options)
        rows[f"peer: {name}"] = torch_peers.make_step(model, images, labels, weights, config.optimizer)
    return rows


def measure_inference(load, batch: int, rounds: int) -> dict:
    """Merged inference beside the plain backbone with as many heads."""
    from benchmarks.ours import Ours

    one = load(batch).tasks.split("+")[0]
    cases = {
        "plain, one task": ("method.name=frozen", f"tasks={one}"),
        "plain, all tasks": ("method.name=frozen",),
        "lora merged, all tasks": ("method.name=lora",),
        "ditask merged, one task": (f"tasks={one}",),
        "ditask merged, all tasks": (),
    }
    rows, programs = {}, {}
    for name, overrides in cases.items():
        rows[name], programs[name] = Ours(load(batch, *overrides)).inference()
    times = in_turns(rows, rounds, settle=1)
    pairs = {
        "lora merged, all tasks / plain, all tasks": 1.05,
        "ditask merged, one task / plain, one task": 1.25,
        "ditask merged, all tasks / plain, one task": 2.3,
    }
    split = {pair: pair.split(" / ") for pair in pairs}
    return {
        "rows": {name: _row(times, name) for name in rows},
        "programs": {name: program.facts() for name, program in programs.items()},
        "ratios": {pair: ratio(times, *names) for pair, names in split.items()},
        "cpu_ratios": {pair: ratio(times, *names, "cpu") for pair, names in split.items()},
        "limits": pairs,
    }


def measure_memory(config) -> dict:
    """Bytes that a step holds, as the compiler plans them: nothing is run.

    `same streams, all weights` is the step of this method with every weight of the backbone trained too, one deformed
    kernel for every stream: what full fine-tuning of these streams would hold, optimiser state apart.
    """
    from benchmarks.ours import Ours

    cases = {
        "ours": Ours(config),
        "ours, remat=dots": Ours(_with(config, {"remat": "dots"})),
        "ours, remat=blocks": Ours(_with(config, {"remat": "blocks"})),
        "full fine-tuning, one stream": Ours(_with(config, {"method.name": "full"})),
    }
    if config.method.name == "ditask":
        cases["same streams, all weights"] = Ours(_with(config, {"method.execution": "materialised"}), unfrozen=True)
    found = {}
    for name, own in cases.items():
        facts = own.train_step()[1].facts()
        state = 2 * own.trainable_bytes
        held = facts["arguments"] + facts["temporary"]
        found[name] = facts | {"optimiser_state": state, "held": held, "held_without_optimiser": held - state}
    return found


if __name__ == "__main__":
    sys.exit(main())
