"""Times single convolutions and poolings, as in the steps of an epoch.

  python -m benchmarks.layers

A call is a scan over two batches, since XLA's CPU compiler treats convolutions
in a loop differently; times are those of one batch. The floor is that of the
operations, at the rate of a large product, or of the bytes.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax import lax

from benchmarks import _frame
from benchmarks._losses import draw
from benchmarks._measure import Case, import_torch
from kdjax.nets import convolve, max_pool

STEPS = 2
# batch, side, inputs, outputs and size of a kernel; batch, side and channels
SHAPES = {
  "tiny": {"convolutions": [(2, 4, 2, 3, 3)], "poolings": [(2, 4, 2)]},
  "cpu": {
    "convolutions": [
      (128, 28, 1, 32, 3),
      (128, 14, 32, 64, 3),
      (128, 14, 64, 128, 3),
      (64, 32, 16, 16, 3),
      (64, 8, 64, 64, 3),
    ],
    "poolings": [(128, 28, 32), (128, 14, 64)],
  },
  "gpu": {
    "convolutions": [(1024, 32, 32, 32, 3), (1024, 8, 256, 256, 3)],
    "poolings": [(1024, 28, 32), (1024, 14, 64)],
  },
}
LAYOUT = ("NHWC", "HWIO", "NHWC")
# Which of the results of a convolution a group has.
RESULTS = ("outputs", "gradient by inputs", "gradient by the kernel")


def make_cases(flags: argparse.Namespace) -> list[Case]:
  """Builds the cases of one size."""
  shapes = SHAPES[flags.size]
  return [
    *(
      convolution_case(*shape, result)
      for shape in shapes["convolutions"]
      for result in RESULTS
    ),
    *(pooling_case(*shape) for shape in shapes["poolings"]),
  ]


def convolution_case(
  batch: int, side: int, inputs: int, outputs: int, size: int, result: str
) -> Case:
  """One of the three products of a padded convolution."""
  pads, index = ((size // 2, size // 2),) * 2, RESULTS.index(result)

  def of(convolution: Callable[..., jax.Array]) -> Callable[..., Any]:
    def one(x: jax.Array, kernel: jax.Array, slope: jax.Array) -> jax.Array:
      if not index:
        return convolution(x, kernel)
      return jax.vjp(convolution, x, kernel)[1](slope)[index - 1]

    def run(x: jax.Array, kernel: jax.Array, slope: jax.Array) -> Any:
      return lax.map(lambda pair: one(pair[0], kernel, pair[1]), (x, slope))

    return run

  def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
      x, kernel, (1, 1), pads, dimension_numbers=LAYOUT
    )

  def peer(x: Any, kernel: Any, slope: Any) -> Any:
    torch = import_torch()
    x, slope = (a.permute(0, 1, 4, 2, 3) for a in (x, slope))
    kernel = kernel.permute(3, 2, 0, 1).contiguous(
      memory_format=torch.channels_last
    )

    def one(x: Any, slope: Any) -> Any:
      if not index:
        y = torch.nn.functional.conv2d(x, kernel, padding=size // 2)
        return y.permute(0, 2, 3, 1)
      wanted = [index == 1, index == 2, False]
      options = [1, 1], [size // 2] * 2, [1, 1], False, [0, 0], 1, wanted
      gradient = torch.ops.aten.convolution_backward(
        slope, x, kernel, None, *options
      )[index - 1]
      return gradient.permute((0, 2, 3, 1) if index == 1 else (2, 3, 1, 0))

    return torch.stack([one(*pair) for pair in zip(x, slope, strict=True)])

  return Case(
    f"convolution, {result}",
    str([batch, side, side, inputs, outputs, size]),
    batch,
    "batch",
    lambda: (
      draw(0, STEPS, batch, side, side, inputs),
      draw(1, size, size, inputs, outputs),
      draw(2, STEPS, batch, side, side, outputs),
    ),
    {
      "kdjax": of(lambda x, kernel: convolve(x, kernel, (1, 1), pads)),
      "lax": of(plain),
    },
    {"torch eager": peer},
    4 * batch * side**2 * (inputs + outputs),
    operations=2 * batch * side**2 * inputs * outputs * size**2,
    reference=of(plain),
    steps=STEPS,
  )


def pooling_case(batch: int, side: int, channels: int) -> Case:
  """The gradient of a 2x2 max pooling."""

  def of(pool: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
      return jax.vjp(pool, pair[0])[1](pair[1])[0]

    return lambda *pairs: lax.map(one, pairs)

  def theirs(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (2, 2), strides=(2, 2))

  def peer(x: Any, slope: Any) -> Any:
    torch = import_torch()

    def one(x: Any, slope: Any) -> Any:
      x = x.permute(0, 3, 1, 2).detach().requires_grad_()
      y = torch.nn.functional.max_pool2d(x, 2)
      y.backward(slope.permute(0, 3, 1, 2))
      return x.grad.permute(0, 2, 3, 1)

    return torch.stack([one(*pair) for pair in zip(x, slope, strict=True)])

  return Case(
    "max pooling, gradient",
    str([batch, side, side, channels]),
    batch,
    "batch",
    lambda: (
      draw(0, STEPS, batch, side, side, channels),
      draw(1, STEPS, batch, side // 2, side // 2, channels),
    ),
    {"kdjax": of(lambda x: max_pool(x, (2, 2), (2, 2))), "nnx": of(theirs)},
    {"torch eager": peer},
    4 * batch * side**2 * channels * 9 // 4,
    reference=of(theirs),
    steps=STEPS,
  )


if __name__ == "__main__":
  _frame.run(make_cases, __doc__.splitlines()[0])
