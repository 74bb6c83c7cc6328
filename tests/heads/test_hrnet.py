"""The head resizes and widens its maps in the cheaper order; the result is that of the published one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.heads.neck import Pointwise, convolves_first
from ditask_jax.nn import Context, Scope
from ditask_jax.nn.state import split_state

# Sides and widths of the maps: Swin's at three image sizes, oblong, all of one size (ViT), a single one, growing.
MAPS = {
    "448": [((56, 56), 18), ((28, 28), 36), ((14, 14), 72), ((14, 14), 144)],
    "oblong": [((12, 20), 18), ((6, 10), 36), ((3, 5), 72), ((3, 5), 144)],
    "equal": [((7, 7), 18), ((7, 7), 36)],
    "one": [((5, 4), 8)],
    "odd": [((15, 13), 6), ((8, 7), 40), ((1, 1), 64)],
    "larger later": [((4, 4), 6), ((9, 9), 5)],
}


@pytest.mark.parametrize(
    "maps", [pytest.param(m, id=name, marks=pytest.mark.slow if name == "448" else ()) for name, m in MAPS.items()]
)
@pytest.mark.parametrize("bias", [True, False])
def test_order_makes_no_difference(maps, bias):
    conv = Pointwise(sum(width for _, width in maps), 48, Scope(), use_bias=bias)
    arrays = [jax.random.normal(jax.random.key(i), (2, *side, width)) for i, (side, width) in enumerate(maps)]
    size = maps[0][0]
    weights = jax.random.normal(jax.random.key(9), (2, *size, 48))

    def published(kernel, arrays):
        enlarged = [jax.image.resize(x, (2, *size, x.shape[-1]), "bilinear", antialias=False) for x in arrays]
        y = jnp.concatenate(enlarged, axis=-1) @ kernel
        return jnp.vdot(y + (conv.bias[...].reshape(1, 1, 1, -1) if bias else 0), weights)

    parts = split_state(conv)

    def ours(kernel, arrays):
        y = parts.merge(parts.trainable | {"kernel": kernel}, parts.frozen, parts.stats).of_enlarged(
            arrays, size, Context(train=False)
        )
        assert y.shape == weights.shape
        return jnp.vdot(y, weights)

    kernel = conv.kernel[...]
    expected, wanted = jax.value_and_grad(published, argnums=(0, 1))(kernel, arrays)
    value, gradients = jax.value_and_grad(ours, argnums=(0, 1))(kernel, arrays)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-2)
    for found, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, other, atol=2e-5 * float(jnp.abs(other).max()))


def test_small_wide_maps_are_convolved_first():
    size = (56, 56)
    assert [convolves_first((*side, width), size) for side, width in MAPS["448"]] == [False, False, True, True]
    # The order is chosen by work: never for maps that are not enlarged.
    assert not any(convolves_first((7, 7, width), (7, 7)) for width in (1, 64, 4096))
