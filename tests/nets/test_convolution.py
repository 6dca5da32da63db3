"""Convolutions equal JAX's, and keep the axes that a CPU is fast with."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.test_util import check_grads

from kdjax.nets import convolve, layers

LAYOUT = ("NHWC", "HWIO", "NHWC")
# Height, width, kernel, stride, padding.
CASES = [
  (5, 7, 3, 1, [(1, 1), (1, 1)]),
  (7, 6, 3, 2, [(1, 1), (1, 1)]),
  (8, 8, 1, 2, [(0, 0), (0, 0)]),
  (6, 5, 5, 1, "SAME"),
  (6, 9, 4, 4, "VALID"),
  (4, 4, 3, 2, [(0, 2), (2, 0)]),
  (2, 2, 5, 1, [(2, 2), (2, 2)]),
  (13, 1, (9, 1), 2, [(4, 4), (0, 0)]),  # over the height alone
  (6, 1, (4, 1), 1, [(1, 2), (0, 0)]),
]


def draw(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "size", "stride", "pads"), CASES)
def test_values_and_derivatives_equal_jax(height, width, size, stride, pads):
  with jax.enable_x64(True):
    x, tangent = draw(2, 3, height, width, 4)
    sides = (size, size) if isinstance(size, int) else size
    kernel, moved = draw(2, *sides, 4, 3)

    def all_of(function):
      def loss(x, kernel):
        return jnp.sum(jnp.sin(function(x, kernel, (stride, stride), pads)))

      def along(x, kernel):
        return jax.jvp(loss, (x, kernel), (tangent, moved))[1]

      gradient = jax.value_and_grad(loss, (0, 1))
      return jax.jit(
        lambda *a: (gradient(*a), along(*a), jax.grad(along, (0, 1))(*a))
      )(x, kernel)

    ours = all_of(convolve)
    theirs = all_of(
      functools.partial(lax.conv_general_dilated, dimension_numbers=LAYOUT)
    )
    for a, b in zip(
      jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_vmap_of_a_gradient_equals_a_loop():
  x, kernels = (
    np.float32(draw(2, 3, 4, 4, 2)),
    np.float32(draw(2, 3, 3, 2, 4)),
  )

  def gradient(x, kernel):
    def loss(x, kernel):
      y = convolve(x, kernel, (2, 2), [(1, 1), (1, 1)])
      return jnp.sum(jnp.square(y))

    return jax.grad(loss, (0, 1))(x, kernel)

  together = jax.device_get(jax.jit(jax.vmap(gradient))(x, kernels))
  alone = [jax.jit(gradient)(*pair) for pair in zip(x, kernels, strict=True)]
  for i, pair in enumerate(alone):
    for a, b in zip(pair, together, strict=True):
      np.testing.assert_allclose(a, b[i], rtol=1e-5, atol=1e-5)


def test_layers_take_it_and_loops_keep_the_axes():
  layer = layers.convolution(2, 3, 3, stride=2, rngs=nnx.Rngs(0))
  graph, kernel = nnx.split(layer)
  x = np.float32(draw(4, 6, 6, 2))

  def step(carry, _):
    def loss(kernel, x):
      return jnp.sum(jnp.square(nnx.merge(graph, kernel)(x)))

    return jax.tree.map(
      lambda a, b: a - 0.1 * b, carry, jax.grad(loss, (0, 1))(*carry)
    ), None

  program = jax.jit(lambda *a: lax.scan(step, a, None, length=3)[0])
  text = program.lower(kernel, x).compile().as_text()
  labels = set(re.findall(r"dim_labels=(\S+?)[,\s]", text))
  assert labels == {"b01f_01io->b01f"}


def test_groups_are_left_to_jax():
  layer = layers.convolution(4, 4, 3, groups=4, rngs=nnx.Rngs(0))
  x = np.float32(draw(2, 5, 5, 4))
  kernel = layer.kernel[...]
  pads = [(1, 1), (1, 1)]
  expected = lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    pads,
    dimension_numbers=LAYOUT,
    feature_group_count=4,
  )
  np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
  check_grads(jax.jit(lambda x: layer(x).sum()), (x,), order=1, rtol=1e-2)
