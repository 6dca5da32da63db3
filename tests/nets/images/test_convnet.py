"""A small convolutional network without batch statistics."""

import numpy as np
from flax import nnx

from kdjax.nets import ConvNet


def _images(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _built(network, **options):
  """In one program: built eagerly, every shape is compiled alone."""
  return nnx.jit(lambda: network(3, rngs=nnx.Rngs(0), **options))()


@nnx.jit
def _run(model, images):
  return model(images)


def _dense(layer, x):
  return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def _stage(layer, x):
  """Convolution with 2 pixels of zeros around, ReLU."""
  kernel = np.asarray(layer.kernel[...], np.float64)
  padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
  out = np.einsum("bhwcij,ijco->bhwo", windows, kernel)
  return np.maximum(out + np.asarray(layer.bias[...]), 0)


def _pool(x):
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def test_convnet_is_lenet_with_padding():
  model = _built(ConvNet, input_shape=(8, 8, 1))
  images = _images(2, 8, 8, 1)
  first = _stage(model.convolutions[0], images)
  second = _stage(model.convolutions[1], _pool(first))
  hidden = np.maximum(_dense(model.hidden, _pool(second).reshape(2, -1)), 0)
  outputs = _run(model, images)
  np.testing.assert_allclose(outputs.features["f0"], first, atol=1e-4)
  np.testing.assert_allclose(outputs.features["f1"], second, atol=1e-4)
  np.testing.assert_allclose(outputs.embedding, hidden, atol=1e-4)
  logits = _dense(model.head, hidden)
  np.testing.assert_allclose(outputs.logits, logits, atol=1e-4)
