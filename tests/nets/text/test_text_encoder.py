"""An encoder of text: padding, pooling, heads, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

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
def test_a_mesh_of_eight_devices_equals_one():
  """With the axes that `jax.make_mesh` makes by default, which are Explicit."""
  config = dataclasses.replace(
    CONFIG, vocab_size=20, depth=1, num_heads=4, head="mlm", dropout=0.1
  )

  def make():
    network = nets.TextEncoder(config, rngs=nnx.Rngs(0, dropout=1))
    state = nnx.state(network, nnx.Param)
    nnx.update(
      network, jax.tree.map(lambda x: 10 * x if x.ndim > 1 else x, state)
    )
    network.train()
    return network

  @nnx.jit
  def program(network, tokens, mask):
    def loss(network):
      outputs = network(tokens, attention_mask=mask)
      log_probs = jax.nn.log_softmax(outputs.logits)
      return -jnp.mean(log_probs[..., 0]), outputs

    return nnx.value_and_grad(loss, has_aux=True)(network)

  alone, network = make(), make()
  mesh = jax.make_mesh((2, 4), ("data", "model"))
  nets.shard_parameters(network, mesh)
  assert network.tokens[...].sharding.spec == P("model", None)
  rows = jax.sharding.NamedSharding(mesh, P("data"))
  texts = jax.device_put((TOKENS, MASK), rows)
  losses = []
  for _ in range(2):  # the random streams of dropout go on
    with jax.set_mesh(mesh):
      got = program(network, *texts)
    expected = program(alone, TOKENS, MASK)
    assert got[0][1].logits.sharding.spec[0] == "data"
    for a, b in zip(
      jax.tree.leaves(got), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    losses.append(float(got[0][0]))
  assert losses[0] != losses[1]


@pytest.mark.slow
def test_types_and_positions_without_a_row_are_nan():
  network = nets.TextEncoder(
    dataclasses.replace(CONFIG, depth=0), rngs=nnx.Rngs(0)
  )
  for name, value in (("token_types", 2), ("positions", 8)):
    given = np.zeros_like(TOKENS)
    given[0, 1] = given[1, 4] = value  # the second one is padding
    outputs = network(TOKENS, attention_mask=MASK, **{name: given})
    np.testing.assert_array_equal(np.isnan(outputs.embedding[:, 0]), [1, 0])


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
