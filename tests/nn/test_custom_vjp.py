"""Backward passes written by hand: against JAX's own derivatives, forwards and again, in every backend's forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters.execution import factored_product
from ditask_jax.backbones.blocks import add_branch
from ditask_jax.cpab.arithmetic import pick
from ditask_jax.nn.attention import attend, split_heads
from ditask_jax.nn.custom_vjp import custom_vjp
from ditask_jax.nn.norm import normalise
from ditask_jax.nn.products import fan_out_product, gelu, product, token_product
from ditask_jax.nn.stochastic import _thin_first
from ditask_jax.numerics import accelerator_forms, by_backend


def plain_normalise(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    spread = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred * spread * scale.reshape(1, 1, -1) + bias.reshape(1, 1, -1)


def plain_attend(q, k, v, bias):
    weights = jax.nn.softmax(jnp.einsum("sbnqd,sbnkd->sbnqk", q, k) * q.shape[-1] ** -0.5 + bias, axis=-1)
    joined = jnp.einsum("sbnqk,sbnkd->sbqnd", weights, v)
    return joined.reshape(*joined.shape[:3], -1)


def plain_heads(qkv):
    return jnp.moveaxis(qkv.reshape(*qkv.shape[:-1], 3, 2, -1), (3, 4), (0, 3))


def plain_factored(x, change):
    left, values, right = FACTORS
    scaled = jnp.einsum("sni,pir->snpr", x, left) * (values[None] + change)[:, None]
    return jnp.einsum("snpr,pro->snpo", scaled, right).reshape(scaled.shape[0], x.shape[1], -1)


RNG = np.random.default_rng(0)
draw = lambda *shape: RNG.standard_normal(shape).astype(np.float32)
FACTORS = draw(2, 5, 3), draw(2, 3), draw(2, 3, 4)
KEPT = RNG.random((1, 2, 4, 3)) > 0.5
PLACES = np.array([2, 0, 2, 1, 2])
factored = lambda x, change: factored_product(x, FACTORS[0], FACTORS[1], change, FACTORS[2])
thin = lambda x: _thin_first(x, KEPT, 0.5)
plain_thin = lambda x: jnp.concatenate([jnp.where(KEPT, x[:1] / 0.5, 0), x[1:]])

# Ours, the same in plain operations, arguments.
CASES = {
    "product, narrow in": (product, jnp.matmul, draw(2, 5, 3), draw(3, 4)),
    "product, wide in": (product, jnp.matmul, draw(2, 5, 4), draw(4, 3)),
    "fan out": (fan_out_product, lambda x, k: jnp.stack([x @ one for one in k]), draw(5, 3), draw(2, 3, 4)),
    "token product": (token_product, lambda x, y: jnp.einsum("abi,abo->io", x, y), draw(2, 5, 3), draw(2, 5, 4)),
    "norm": (normalise, plain_normalise, draw(2, 5, 6), draw(6), draw(6)),
    "gelu": (gelu, lambda x: jax.nn.gelu(x, approximate=False), draw(2, 5)),
    "attention": (attend, plain_attend, *(draw(2, 1, 2, 4, 3) for _ in range(3)), draw(1, 1, 2, 4, 4)),
    "heads": (lambda qkv: jnp.stack(split_heads(qkv, 2)), plain_heads, draw(1, 2, 4, 12)),
    "dropout": (thin, plain_thin, draw(3, 2, 4, 3)),
    "residual": (add_branch, jnp.add, draw(3, 2, 4), draw(3, 2, 4)),
    "residual, fan out": (add_branch, jnp.add, draw(1, 2, 4), draw(3, 2, 4)),
    "factored": (factored, plain_factored, draw(1, 4, 5), draw(1, 2, 3)),
    "factored, few tokens": (factored, plain_factored, draw(1, 2, 5), draw(1, 2, 3)),
    "factored, fan out": (factored, plain_factored, draw(1, 4, 5), draw(3, 2, 3)),
    "factored, streams": (factored, plain_factored, draw(3, 2, 5), draw(3, 2, 3)),
    "pick": (lambda table: jnp.stack(pick(table, PLACES)), lambda table: table[PLACES][None], draw(3)),
}


def flat(tree) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def every_derivative(function, arguments):
    """Value, gradient, tangent, Hessian-vector products either way round, and the derivatives of many at once."""
    positions = tuple(range(len(arguments)))
    tangents = tuple(jnp.cos(jnp.arange(a.size, dtype=jnp.float32)).reshape(a.shape) for a in arguments)

    def loss(*arguments):
        out = function(*arguments)
        return jnp.sum(jnp.sin(out + 0.1 * jnp.arange(out.size, dtype=out.dtype).reshape(out.shape)))

    gradient = jax.grad(loss, positions)
    forward = lambda *at: jax.jvp(loss, at, tangents)[1]
    several = tuple(jnp.stack([a, 2 * a]) for a in arguments)
    return {
        "value": flat(function(*arguments)),
        "gradient": flat(gradient(*arguments)),
        "tangent": flat(jax.jvp(function, arguments, tangents)[1]),
        "forward over reverse": flat(jax.jvp(gradient, arguments, tangents)[1]),
        "reverse over forward": flat(jax.grad(forward, positions)(*arguments)),
        "many tangents": flat(jax.vmap(lambda *t: jax.jvp(loss, arguments, t)[1])(*several)),
        "several, then one gradient": flat(jax.grad(lambda *at: jnp.sum(jax.vmap(loss)(*at)), positions)(*several)),
    }


# Those that differ by backend are tested in both forms, the others have one.
BOTH = ("product, narrow in", "product, wide in", "token product", "norm", "factored, fan out", "pick")


@pytest.mark.parametrize(("name", "accelerator"), [(name, False) for name in CASES] + [(name, True) for name in BOTH])
def test_every_derivative_is_that_of_plain_operations(name, accelerator):
    ours, plain, *arguments = CASES[name]
    with accelerator_forms(accelerator):
        found, wanted = jax.jit(lambda *at: [every_derivative(function, at) for function in (ours, plain)])(*arguments)
    for kind, value in wanted.items():
        np.testing.assert_allclose(found[kind], value, rtol=2e-4, atol=2e-5 * np.abs(value).max(), err_msg=kind)


def test_the_form_of_a_backend_is_chosen_in_one_place():
    two = lambda x: by_backend(x, cpu=lambda x: x + 1, elsewhere=lambda x: x + 2)
    assert jax.jit(two)(0.0) == 1
    with accelerator_forms():
        assert jax.jit(lambda x: two(x))(0.0) == 2
        with accelerator_forms(False):
            assert two(0.0) == 1
        assert two(0.0) == 2
    assert two(0.0) == 1


def test_a_whole_hessian():
    x = draw(4)
    loss = lambda function: lambda x: jnp.sum(jnp.sin(function(x)) ** 2)
    wanted = jax.jit(jax.hessian(loss(lambda x: jax.nn.gelu(x, approximate=False))))(x)
    np.testing.assert_allclose(jax.jit(jax.hessian(loss(gelu)))(x), wanted, rtol=1e-4, atol=1e-5)


def test_the_backward_pass_in_use_is_the_one_that_is_written_and_keeps_what_it_says():
    @custom_vjp(lambda x, y: (x * y, (jnp.sum(y), "static")), lambda kept, gradient: (7 * kept[0] * gradient, None))
    def marked(x, y):
        return x * y

    x, y = jnp.arange(3.0), jnp.ones(3)
    value, pull = jax.vjp(marked, x, y)
    assert value.tolist() == [0, 1, 2]
    assert [g.tolist() for g in pull(jnp.ones(3))] == [[21, 21, 21], [0, 0, 0]]
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) == 1
    # What is kept of a factored product are its coordinates, not the input that they were made of.
    big = jnp.ones((1, 100, 5))
    _, pull = jax.vjp(lambda x, change: factored(x, change), big, jnp.zeros((1, 2, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(pull) if leaf.size >= 100) == 2 * 100 * 3


def test_arguments_that_do_not_move_have_no_part_in_the_tangent():
    found = jax.jvp(lambda x: product(x, jnp.ones((3, 4))), (jnp.ones((2, 3)),), (jnp.ones((2, 3)),))[1]
    np.testing.assert_array_equal(found, jnp.full((2, 4), 3.0))
    with jax.numpy_rank_promotion("allow"):
        mixed = jax.jvp(lambda x: _thin_first(x, jnp.ones((1, 3), bool), 0.5), (jnp.ones((2, 3)),), (jnp.ones((2, 3)),))
    assert mixed[1].tolist() == [[2, 2, 2], [1, 1, 1]]
