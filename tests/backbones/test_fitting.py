"""Variables with a row per cell of a grid, moved to other grids: against a direct cubic and linear interpolation."""

import jax
import numpy as np
import pytest

from ditask_jax.backbones import create_backbone
from ditask_jax.errors import WeightsError
from ditask_jax.nn import GridRows, Scope, fit_rows, flatten, split_state
from ditask_jax.weights import assign, fit_backbone

RNG = np.random.default_rng(0)


def cubic(x: float, a: float = -0.75) -> float:
    """Keys' kernel; with a = -0.75, as PyTorch has it without anti-aliasing."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def linear(x: float) -> float:
    return max(1 - abs(x), 0.0)


def interpolated(rows, source, target, kernel):
    """Half-pixel interpolation with clamped borders, one cell at a time."""
    grid = rows.reshape(*source, -1)
    for axis in (0, 1):
        new = []
        for index in range(target[axis]):
            place = (index + 0.5) * source[axis] / target[axis] - 0.5
            near = range(int(np.floor(place)) - 2, int(np.floor(place)) + 4)
            parts = [kernel(place - i) * np.take(grid, np.clip(i, 0, source[axis] - 1), axis) for i in near]
            new.append(sum(parts))
        grid = np.stack(new, axis)
    return grid.reshape(-1, rows.shape[-1])


@pytest.mark.parametrize(("source", "target"), [((4, 4), (7, 3)), ((6, 6), (2, 9)), ((5, 5), (4, 4))])
@pytest.mark.parametrize(("method", "kernel"), [("bicubic", cubic), ("bilinear", linear)])
@pytest.mark.parametrize("leading", [0, 1])
def test_rows_are_interpolated(source, target, method, kernel, leading):
    rows = RNG.standard_normal((leading + source[0] * source[1], 3))
    fitted = fit_rows(rows, GridRows(target, leading, method))
    np.testing.assert_allclose(fitted[:leading], rows[:leading], rtol=1e-6)
    np.testing.assert_allclose(fitted[leading:], interpolated(rows[leading:], source, target, kernel), atol=1e-5)


def widened(rows, source, target):
    """Anti-aliased half-pixel interpolation, cut off at borders: Keys' kernel with a = -0.5, as PyTorch then has it."""
    grid = rows.reshape(*source, -1)
    for axis in (0, 1):
        scale = source[axis] / target[axis]
        weights = np.array(
            [
                [cubic((i + 0.5 - (index + 0.5) * scale) / max(scale, 1), -0.5) for i in range(source[axis])]
                for index in range(target[axis])
            ]
        )
        grid = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), grid, (1, axis)), 0, axis)
    return grid.reshape(-1, rows.shape[-1])


@pytest.mark.parametrize(("source", "target"), [((6, 6), (9, 4)), pytest.param((7, 7), (4, 3), marks=pytest.mark.slow)])
def test_rows_are_interpolated_with_anti_aliasing(source, target):
    rows = RNG.standard_normal((1 + source[0] * source[1], 3))
    fitted = fit_rows(rows, GridRows(target, 1, "bicubic_antialias"))
    np.testing.assert_allclose(fitted[1:], widened(rows[1:], source, target), atol=1e-5)


def test_rows_that_fit_are_not_touched():
    rows = RNG.standard_normal((17, 3)).astype(np.float16)
    assert fit_rows(rows, GridRows((4, 4), 1)) is rows
    # No square: the same number of cells is taken for the same grid.
    rectangle = rows[:8]
    assert fit_rows(rectangle, GridRows((2, 4))) is rectangle


def test_a_known_grid_wins_over_the_guess_of_a_square():
    rows = RNG.standard_normal((16, 2))
    wide, square = GridRows((2, 8)), GridRows((4, 4))
    assert fit_rows(rows, wide, wide) is rows
    np.testing.assert_allclose(fit_rows(rows, square, wide), interpolated(rows, (2, 8), (4, 4), cubic), atol=1e-5)
    np.testing.assert_allclose(fit_rows(rows, wide), interpolated(rows, (4, 4), (2, 8), cubic), atol=1e-5)


def arrays_of(backbone):
    parts = split_state(backbone)
    return {k: np.asarray(v) for tree in (parts.trainable, parts.frozen) for k, v in flatten(tree).items()}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_test", (128, 32)),
        ("pvt_test", (256, 64)),
        ("pvt_v2_test", (256, 64)),
        ("swin_test_deep", (128, 128)),
        ("swin_test_deep", (104, 40)),
        pytest.param("dinov2_test", (128, 32), marks=pytest.mark.slow),
        pytest.param("dinov3_test", (128, 32), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("readout", ["map", "last"])
def test_weights_load_at_any_image_size(name, size, readout):
    """A file of one size fills a model of another, by size and by readout; only what depends on the grid is changed."""
    file = arrays_of(create_backbone(name, 64, scope=Scope(seed=1)))
    other = create_backbone(name, size, scope=Scope(seed=2), readout=readout)
    fitted = fit_backbone(other, file, (64, 64))
    assign(other, fitted)
    changed = {path.rsplit("/", 1)[-1] for path in file if fitted[path] is not file[path]}
    kind = {"swin_test_deep": {"relative_position_bias_table"}, "pvt_v2_test": set(), "dinov3_test": set()}
    assert changed == kind.get(name, {"position_embedding"})
    # Weights of a rectangle whose cells would make a square too are known by the size they were made for.
    mine = arrays_of(other)
    again = fit_backbone(create_backbone(name, size), mine, size)
    assert all(again[path] is array for path, array in mine.items())


def test_weights_of_another_architecture_are_refused_in_one_report():
    other = create_backbone("pvt_test", 64)
    fitted = fit_backbone(other, arrays_of(create_backbone("vit_test", 64)), (64, 64))
    with pytest.raises(WeightsError, match=r"missing: .*unexpected: "):
        assign(other, fitted)


@pytest.mark.parametrize("name", ["vit_test", "pvt_test", "swin_test_deep"])
def test_weights_are_loaded_while_a_program_is_traced(name):
    """Inside `jax.jit`: from arrays as values, from arguments as a part of the program; both as outside."""
    file = arrays_of(create_backbone(name, 64, scope=Scope(seed=1)))

    def loaded(arrays):
        model = create_backbone(name, (128, 128), scope=Scope(seed=2))
        assign(model, fit_backbone(model, arrays, (64, 64)))
        parts = split_state(model)
        return flatten(parts.trainable) | flatten(parts.frozen)

    expected = loaded(file)
    for found in (jax.jit(lambda: loaded(file))(), jax.jit(loaded)(file)):
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_allclose(found[path], value, atol=1e-6, err_msg=path)


def test_a_model_from_outside_is_not_filled_inside_a_program():
    model = create_backbone("vit_test", 64, scope=Scope(seed=2))
    file = arrays_of(model)

    def program(x):
        assign(model, file, "weights: 'x.safetensors'")
        return x

    with pytest.raises(WeightsError, match=r"'x\.safetensors': assigned inside jax.jit .*load the weights before"):
        jax.jit(program)(1.0)
