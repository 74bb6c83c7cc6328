"""All spectra of a Swin through the diffeomorphism, forward and with gradient, against two other ways to compute it.

python benchmarks/cpab.py
python benchmarks/cpab.py --models=swin_tiny_patch4_window7 --rounds=20 --json=cpab.json

Rows per model: `here` is what a training step runs (`ditask_jax.cpab.spectrum_displacements`: every theta of every
layer and stream of DiTASK with four tasks, in one call), jitted, float32; `with gradient` adds the gradient towards all
thetas. `numpy, float64` integrates the same flow cell by cell in a loop, one spectrum after another, forward only; the
largest difference to it is printed in units of the largest singular value. `difw`, where that package is installed,
is its closed form, one call per spectrum as the released code makes them; its compiled CPU kernel gives wrong values
as built by default, which the last column shows. Spectra are random: times do not depend on them, nor on thetas.
"""

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.report import markdown
from benchmarks.timing import in_turns, median
from ditask_jax.files import json_text

MODELS = ("swin_tiny_patch4_window7", "swin_base_patch4_window7", "swin_large_patch4_window7")
TASKS = "semseg+human_parts+sal+normals"


def main(argv: list[str] | None = None) -> int:
    """Measures every model; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="names of Swins, joined by commas")
    parser.add_argument("--cells", type=int, default=64, help="cells of every transform (default 64)")
    parser.add_argument("--rounds", type=int, default=9, help="times that each row is measured (default 9)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("difw") is None:
        print("difw: not installed, its rows are left out (pip install difw)", file=sys.stderr)
    found = {name: measure(spectra(name, args.cells), args.cells, args.rounds) for name in args.models.split(",")}
    rows = [
        [name, str(entry["spectra"]), str(entry["points"]), row, f"{1e3 * times['seconds']:.2f}",
         f"{1e3 * times['cpu_seconds']:.2f}", f"{times['difference']:.1e}" if "difference" in times else ""]
        for name, entry in found.items() for row, times in entry["rows"].items()
    ]  # fmt: skip
    print(markdown(["model", "spectra", "singular values", "row", "ms", "CPU ms", "largest difference"], rows))
    if args.json:
        pathlib.Path(args.json).write_text(json_text(found, indent=2) + "\n", encoding="utf-8")
    return 0


def picture_side(model: str) -> int:
    """Pixels of the smallest square image that a Swin takes without padding its windows."""
    from ditask_jax.backbones import backbone_config

    config = backbone_config(model)
    return config.patch * config.window * 2 ** (len(config.depths) - 1)


def spectra(model: str, cells: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Thetas `[S, K]` and spectra `[P, R]` of every layer that DiTASK adapts."""
    from ditask_jax import create_tasks
    from ditask_jax.adapters.methods.ditask import DiTASK
    from ditask_jax.adapters.wrap import make_plan
    from ditask_jax.model import create_model

    shape = create_model(model, create_tasks(TASKS, dataset="pascal"), picture_side(model), abstract=True)
    rng, found = np.random.default_rng(seed), []
    for layer in make_plan(shape, DiTASK(shared_cells=cells, task_cells=cells)).layers:
        values = min(layer.shape[0], layer.shape[1] // layer.info.parts)
        singular = -np.sort(-rng.gamma(2.0, size=(layer.info.parts, values)), axis=1)
        theta = 0.5 * rng.standard_normal((len(layer.parameters), cells - 1))
        found.append((theta.astype(np.float32), singular.astype(np.float32)))
    return found


def measure(layers: Sequence[tuple[np.ndarray, np.ndarray]], cells: int, rounds: int) -> dict:
    """Times of every row for these thetas and spectra."""
    import jax
    import jax.numpy as jnp

    from ditask_jax.cpab import Tessellation, spectrum_displacements

    tess, singular = Tessellation(cells), [jnp.asarray(values) for _, values in layers]
    thetas = [jnp.asarray(theta) for theta, _ in layers]
    forward = jax.jit(lambda thetas, singular: spectrum_displacements(thetas, singular, tess, "value", 1.0))
    total = lambda thetas, singular: sum(jnp.sum(jnp.sin(d)) for d in forward(thetas, singular))
    gradient = jax.jit(jax.value_and_grad(total))
    exact: list[np.ndarray] = []

    def loop() -> None:
        exact[:] = [looped(theta.astype(np.float64), values.astype(np.float64), cells) for theta, values in layers]

    rows = {
        "here": lambda: jax.block_until_ready(forward(thetas, singular)),
        "here, with gradient": lambda: jax.block_until_ready(gradient(thetas, singular)),
    }
    times = in_turns(rows, rounds, warm=2)
    slow = in_turns({"numpy, float64": loop} | difw_rows(layers, cells), 1, warm=0)
    found = {
        name: {"seconds": median(both, "wall"), "cpu_seconds": median(both, "cpu")}
        for name, both in ((name, table[name]) for table in (times, slow) for name in table)
    }
    pairs = zip(forward(thetas, singular), exact, layers, strict=True)
    found["here"]["difference"] = max(float(np.abs(np.asarray(a) - b).max() / v.max()) for a, b, (_, v) in pairs)
    count = sum(theta.shape[0] * values.shape[0] for theta, values in layers)
    points = sum(theta.shape[0] * values.size for theta, values in layers)
    return {"spectra": count, "points": points, "rows": found}


def looped(theta: np.ndarray, values: np.ndarray, cells: int) -> np.ndarray:
    """Changes `[S, P, R]` of singular values, by following every point from cell to cell in float64.

    >>> theta, values = np.zeros((1, 3)), np.array([[2.0, 1.0]])
    >>> looped(theta, values, 4).tolist()
    [[[0.0, 0.0]]]
    """
    from ditask_jax.cpab import Tessellation, vertex_basis

    velocity = theta @ vertex_basis(Tessellation(cells)).T * cells
    out = np.zeros((len(theta), *values.shape))
    for stream, field in enumerate(velocity):
        for part, spectrum in enumerate(values):
            place = spectrum / spectrum[0] * cells
            out[stream, part] = (np.array([_follow(field, x) for x in place]) - place) * spectrum[0] / cells
    return out


def _follow(velocity: np.ndarray, x: float) -> float:
    """Where a point is after one unit of time, both in cells."""
    cells, left = len(velocity) - 1, 1.0
    cell = min(int(x), cells - 1)
    while True:
        slope = velocity[cell + 1] - velocity[cell]
        here = velocity[cell] + slope * (x - cell)
        border = cell + 1 if here > 0 else cell
        there = velocity[border]
        ends = border in (0, cells) or here * there <= 0
        ratio = there / here if here else 0.0
        time = np.inf if ends or not here else (border - x) / here * (np.log(ratio) / (ratio - 1) if ratio != 1 else 1)
        if time >= left:
            grown = np.expm1(slope * left) / slope if abs(slope) > 1e-12 else left
            return x + here * grown
        left, x = left - time, float(border)
        cell = border if here > 0 else border - 1


def difw_rows(layers: Sequence[tuple[np.ndarray, np.ndarray]], cells: int) -> dict:
    """difw's forward pass, one call per spectrum; {} where it is not installed."""
    if importlib.util.find_spec("difw") is None:
        return {}
    import difw
    import torch

    flow = difw.Cpab(cells, backend="pytorch", device="cpu", zero_boundary=True, basis="rref")

    @torch.inference_mode()
    def run() -> None:
        for theta, values in layers:
            for spectrum in values:
                points = torch.from_numpy(np.ascontiguousarray(spectrum / spectrum[0]))
                flow.transform_grid(points, torch.from_numpy(theta))

    return {"difw, as installed": run}


if __name__ == "__main__":
    sys.exit(main())
