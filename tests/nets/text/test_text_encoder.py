"""An encoder of text: padding, pooling, heads, dropout."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from kdjax import nets

CONFIG = nets.TextEncoderConfig(
  17, width=8, depth=2, num_heads=2, inner_width=12, max_length=8
)
TOKENS = np.random.default_rng(0).integers(1, 17, (2, 5))
MASK = np.array([[1] * 5, [1] * 3 + [0] * 2], bool)


@jax.jit
def run(network, tokens, mask):
  return network(tokens, attention_mask=mask)


@pytest.mark.slow
def test_the_embedding_is_that_of_the_text_without_padding():
  network = nets.TextEncoder(CONFIG, rngs=nnx.Rngs(0))
  outputs = run(network, TOKENS, MASK)
  alone = run(network, TOKENS[1:, :3], MASK[1:, :3])
  np.testing.assert_allclose(
    outputs.embedding[1], alone.embedding[0], rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(
    outputs.embedding[0], outputs.features["f2"][0].mean(0), rtol=1e-5
  )
  assert outputs.logits is None


@pytest.mark.parametrize(
  ("pooling", "head", "shape"),
  [("first", "mlm", (2, 5, 17)), ("pooler", "classifier", (2, 3))],
)
def test_heads_have_the_shapes_of_their_tasks(pooling, head, shape):
  config = dataclasses.replace(
    CONFIG, pooling=pooling, head=head, num_classes=3, pooler=True
  )
  spec = jax.eval_shape(
    lambda: nets.TextEncoder(config, rngs=nnx.Rngs(0))(TOKENS)
  )
  assert spec.logits.shape == shape
  assert spec.embedding.shape == (2, 8)
  assert spec.values["f2"].shape == (2, 2, 5, 4)


@pytest.mark.slow
def test_dropout_is_for_training():
  network = nets.TextEncoder(
    dataclasses.replace(CONFIG, depth=1, dropout=0.5),
    rngs=nnx.Rngs(0, dropout=1),
  )
  program = nnx.jit(lambda network: network(TOKENS).embedding)
  network.train()
  first, second = (program(network) for _ in range(2))
  assert np.abs(first - second).max() > 0.01
  network.eval()
  first, second = (program(network) for _ in range(2))
  np.testing.assert_array_equal(first, second)


def test_configurations_that_contradict_themselves_are_refused():
  for changes, text in (
    ({"head": "classifier"}, "pooler is False"),
    ({"num_heads": 3}, "multiple of num_heads"),
    ({"pooling": "max"}, "pooling is 'max'"),
  ):
    with pytest.raises(ValueError, match=text):
      dataclasses.replace(CONFIG, **changes)
