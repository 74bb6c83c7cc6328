"""Functions with a backward pass written by hand that can be differentiated forwards too, and again.

`jax.custom_vjp` refuses `jax.jvp`, and with it Hessian-vector products. Here the derivative is an operation of its own,
linear in the tangents: turned round, it is the backward pass as written, over what that keeps and nothing else; asked
for forwards, it is the transpose of that backward pass, which JAX finds. Ordinary training never traces the latter.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def custom_vjp(
    forward: Callable, backward: Callable, push: Callable | None = None, static: Sequence[int] = ()
) -> Callable[[Callable], Callable]:
    """Gives the decorated function a backward pass, for all of `jax.grad`, `jax.jvp`, `jax.hessian` and `jax.vmap`.

    Args:
      forward: the function's arguments to `(its value, what to keep)`. Whatever is kept and is no array is static.
      backward: `(*static arguments, kept, gradient)` to a tuple, a gradient per other argument or None for none.
        Linear in the gradient, and made of what JAX or this module can differentiate.
      push: `(*static arguments, kept, tangents)` to the value's tangent, where it costs less than the transpose of
        `backward`; of the tangents, one per argument, those of no gradient are zeros.
      static: positions of arguments that are no arrays.

    >>> @custom_vjp(lambda x: (x * x, x), lambda x, gradient: (2 * x * gradient,))
    ... def square(x):
    ...     return x * x
    >>> float(jax.grad(square)(3.0)), [float(v) for v in jax.jvp(square, (3.0,), (1.0,))]
    (6.0, [9.0, 6.0])
    >>> float(jax.hessian(square)(3.0))
    2.0
    """

    def decorate(function: Callable) -> Callable:
        differentiable = jax.custom_jvp(function, nondiff_argnums=tuple(static))

        def jvp(*arguments):
            *fixed, primals, tangents = arguments
            # Plain numbers too may be what is differentiated.
            primals, tangents = jax.tree.map(_as_array, (primals, tangents))
            rest = iter(primals)
            fixed_at = dict(zip(static, fixed, strict=True))
            count = len(fixed) + len(primals)
            out, kept = forward(*(fixed_at[i] if i in fixed_at else next(rest) for i in range(count)))
            rule = _Rule(backward, push, tuple(fixed), kept, out, tangents)
            return out, rule.tangent()

        differentiable.defjvp(jvp, symbolic_zeros=True)
        return differentiable

    return decorate


class _Rule:
    """One use of a derivative: how arrays in a row are put together for the two passes, and taken apart behind them."""

    def __init__(self, backward, push, fixed: tuple, kept: Any, out: Any, tangents: tuple):
        leaves, self.kept_tree = jax.tree.flatten(kept)
        self.static = [None if _is_array(leaf) else leaf for leaf in leaves]
        self.dynamic = [_is_array(leaf) for leaf in leaves]
        self.kept = [leaf for leaf in leaves if _is_array(leaf)]
        outputs, self.out_tree = jax.tree.flatten(out)
        self.avals = [jax.typeof(leaf).strip_weak_type() for leaf in outputs]
        given, self.tangents_tree = jax.tree.flatten(tangents)
        self.moving = [index for index, tangent in enumerate(given) if _moves(tangent)]
        self.given = [given[index] for index in self.moving]
        self.types = [(tangent.shape, tangent.dtype) for tangent in given]
        self.fixed, self.hand_backward, self.hand_push = fixed, backward, push

    def tangent(self) -> Any:
        """The tangent of the value."""
        if not self.given:
            return jax.tree.unflatten(self.out_tree, [jnp.zeros(aval.shape, aval.dtype) for aval in self.avals])
        params = {"push": self.push, "backward": self.backward, "count": len(self.kept), "avals": tuple(self.avals)}
        return jax.tree.unflatten(self.out_tree, _linear_p.bind(*self.kept, *self.given, **params))

    def _together(self, kept: Sequence[jax.Array]) -> Any:
        arrays = iter(kept)
        leaves = [next(arrays) if dynamic else leaf for dynamic, leaf in zip(self.dynamic, self.static, strict=True)]
        return jax.tree.unflatten(self.kept_tree, leaves)

    def backward(self, kept: Sequence[jax.Array], gradients: Sequence[jax.Array]) -> list[jax.Array]:
        """Gradients of the arguments that move, by the pass as written."""
        found = self.hand_backward(*self.fixed, self._together(kept), jax.tree.unflatten(self.out_tree, gradients))
        leaves = []
        for gradient, argument in zip(found, self.tangents_tree.children(), strict=True):
            none = gradient is None
            leaves += [None] * argument.num_leaves if none else argument.flatten_up_to(gradient)
        found = [(leaves[index], *self.types[index]) for index in self.moving]
        return [jnp.zeros(shape, dtype) if leaf is None else leaf for leaf, shape, dtype in found]

    def push(self, kept: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> list[jax.Array]:
        """Tangents of the value: by hand, or by turning the backward pass round."""
        if self.hand_push is None:
            nothing = [jnp.zeros(aval.shape, aval.dtype) for aval in self.avals]
            return jax.vjp(lambda gradients: self.backward(kept, gradients), nothing)[1](list(tangents))[0]
        moved = dict(zip(self.moving, tangents, strict=True))
        leaves = [moved[index] if index in moved else _nothing(*self.types[index]) for index in range(len(self.types))]
        tangents = jax.tree.unflatten(self.tangents_tree, leaves)
        return jax.tree.leaves(self.hand_push(*self.fixed, self._together(kept), tangents))


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, float) else leaf


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _moves(tangent: Any) -> bool:
    return not isinstance(tangent, SymbolicZero) and tangent.dtype != jax.dtypes.float0


def _nothing(shape: tuple[int, ...], dtype: Any) -> jax.Array | np.ndarray:
    return np.zeros(shape, dtype) if dtype == jax.dtypes.float0 else jnp.zeros(shape, dtype)


def _compute(*operands, push, backward, count, avals):
    return push(operands[:count], operands[count:])


def _jvp(primals, tangents, *, push, backward, count, avals):
    bind = lambda linear: _linear_p.bind(
        *primals[:count], *linear, push=push, backward=backward, count=count, avals=avals
    )
    kept, linear = primals[:count], primals[count:]
    found = [ad.Zero(aval) for aval in avals]
    if any(type(tangent) is not ad.Zero for tangent in tangents[count:]):
        found = bind([ad.instantiate_zeros(tangent) for tangent in tangents[count:]])
    moving = [index for index in range(count) if type(tangents[index]) is not ad.Zero]
    if moving:

        def over_kept(*moved):
            moved = dict(zip(moving, moved, strict=True))
            return push([moved.get(index, value) for index, value in enumerate(kept)], linear)

        _, more = jax.jvp(over_kept, [kept[index] for index in moving], [tangents[index] for index in moving])
        found = [b if type(a) is ad.Zero else a + b for a, b in zip(found, more, strict=True)]
    return bind(linear), found


def _transpose(gradients, *operands, push, backward, count, avals):
    given = [ad.instantiate_zeros(gradient) for gradient in gradients]
    found = backward(operands[:count], given)
    asked = [ad.is_undefined_primal(operand) for operand in operands[count:]]
    return [None] * count + [gradient if wanted else None for gradient, wanted in zip(found, asked, strict=True)]


def _batched(operands, axes, *, push, backward, count, avals):
    size = next(operand.shape[axis] for operand, axis in zip(operands, axes, strict=True) if axis is not None)
    kept_axes = tuple(axes[:count])
    linear = [
        jnp.broadcast_to(operand, (size, *operand.shape)) if axis is None else jnp.moveaxis(operand, axis, 0)
        for operand, axis in zip(operands[count:], axes[count:], strict=True)
    ]
    # Sequences become tuples, so that axes and arrays have one structure.
    over = lambda function: lambda kept, linear: jax.vmap(function, (kept_axes, 0))(tuple(kept), tuple(linear))
    params = {"push": over(push), "backward": over(backward), "count": count}
    operands = (*operands[:count], *linear)
    avals = tuple(jax.make_jaxpr(lambda *all: _compute(*all, **params, avals=None))(*operands).out_avals)
    return _linear_p.bind(*operands, **params, avals=avals), [0] * len(avals)


_linear_p = Primitive("backward_by_hand")
_linear_p.multiple_results = True
_linear_p.def_impl(_compute)
_linear_p.def_abstract_eval(lambda *_, avals, **__: list(avals))
ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batched
mlir.register_lowering(_linear_p, mlir.lower_fun(_compute, multiple_results=True))
