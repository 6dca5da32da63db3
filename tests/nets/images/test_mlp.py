"""A multilayer perceptron."""

import jax
import numpy as np
import pytest
from flax import nnx

from kdjax.nets import MLP, ConvNet


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


def test_mlp_is_its_matrices():
  model = _built(MLP, input_shape=(4, 4, 2), hidden=(6, 5))
  images = _images(2, 4, 4, 2)
  first = np.maximum(_dense(model.layers[0], images.reshape(2, -1)), 0)
  second = np.maximum(_dense(model.layers[1], first), 0)
  outputs = _run(model, images)
  np.testing.assert_allclose(outputs.features["f0"], first, atol=1e-5)
  np.testing.assert_allclose(outputs.features["f1"], second, atol=1e-5)
  np.testing.assert_allclose(outputs.embedding, second, atol=1e-5)
  logits = _dense(model.head, second)
  np.testing.assert_allclose(outputs.logits, logits, atol=1e-5)


@pytest.mark.slow
def test_dropout_only_in_training_and_no_stream_without_it():
  options = {"input_shape": (2, 2, 1), "hidden": (64,)}
  model = _built(MLP, dropout=0.5, **options)
  images = _images(1, 2, 2, 1)
  model.train()
  first, second = (_run(model, images).logits for _ in range(2))
  assert not np.array_equal(first, second)
  model.eval()
  first, second = (_run(model, images).logits for _ in range(2))
  np.testing.assert_array_equal(first, second)
  assert jax.tree.leaves(nnx.state(model, nnx.RngState))
  plain = _built(MLP, **options)
  assert not jax.tree.leaves(nnx.state(plain, nnx.RngState))


def test_errors_say_what_was_expected():
  model = _built(MLP, input_shape=(4, 4, 2))
  with pytest.raises(ValueError, match=r"\(..., 4, 4, 2\)"):
    model(np.zeros((1, 4, 4, 1)))
  with pytest.raises(ValueError, match=r"inputs has shape \(4, 4, 2\)"):
    model(np.zeros((4, 4, 2)))
  with pytest.raises(TypeError, match="inputs has dtype uint8"):
    model(np.zeros((1, 4, 4, 2), np.uint8))
  with pytest.raises(ValueError, match="at least 4 for 2 poolings"):
    ConvNet(3, input_shape=(3, 8, 1), rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r"dropout is 1\.5"):
    MLP(3, input_shape=(4, 4, 2), dropout=1.5, rngs=nnx.Rngs(0))
