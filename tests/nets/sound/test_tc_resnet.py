"""TC-ResNet: its size, its layers, its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets


@pytest.mark.parametrize(
  ("depth", "width", "thousands"), [(8, 1.0, 66), (14, 1.5, 305)]
)
def test_sizes_are_the_published_ones(depth, width, thousands):
  """Of 12 classes, in thousands, rounded as in table 1 of the paper."""

  def build():
    return nets.TCResNet(depth, 12, width=width, rngs=nnx.Rngs(0))

  state = nnx.state(nnx.eval_shape(build), nnx.Param)
  count = sum(x.size for x in jax.tree.leaves(state))
  assert abs(count / 1000 - thousands) < 0.02 * thousands


@pytest.mark.slow
def test_a_block_is_two_convolutions_and_a_shortcut():
  model = nets.TCResNet(8, 3, num_mels=5, width=0.25, rngs=nnx.Rngs(0))
  model.eval()
  inputs = np.random.default_rng(0).normal(size=(2, 11, 5)).astype(np.float32)
  outputs = nnx.jit(lambda m, x: m(x))(model, inputs)
  x = np.maximum(layer(model.stem, inputs), 0)
  np.testing.assert_allclose(outputs.features["f0"][:, :, 0], x, atol=1e-5)
  for i, (block,) in enumerate(model.stages, 1):
    first, second = block.body
    y = layer(second, np.maximum(layer(first, x, 2), 0))
    x = np.maximum(y + np.maximum(layer(block.shortcut, x, 2), 0), 0)
    found = outputs.features[f"f{i}"][:, :, 0]
    np.testing.assert_allclose(found, x, atol=1e-5)
  kernel, bias = map(np.asarray, (model.head.kernel[...], model.head.bias[...]))
  logits = x.mean(1) @ kernel + bias
  np.testing.assert_allclose(outputs.logits, logits, atol=1e-5)


def layer(module, x, stride=1):
  """A convolution over time of equal padding; batch statistics are new."""
  kernel = np.asarray(module.convolution.kernel[...], np.float64)[:, 0]
  half = len(kernel) // 2
  x = np.pad(x, ((0, 0), (half, half), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, len(kernel), 1)
  return np.einsum("btik,kio->bto", windows[:, ::stride], kernel) / np.sqrt(
    1 + 1e-5
  )


def test_what_is_no_spectrogram_is_refused():
  with pytest.raises(ValueError, match="depth is 10; expected 8 or 14"):
    nets.TCResNet(10, 3, rngs=nnx.Rngs(0))
  model = nnx.eval_shape(lambda: nets.TCResNet(8, 3, rngs=nnx.Rngs(0)))
  with pytest.raises(ValueError, match=r"expected \[batch, frames, 40\]"):
    jax.eval_shape(lambda m, x: m(x), model, jnp.zeros((2, 98, 39)))
