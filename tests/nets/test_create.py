"""Every name, its size and what it returns, without compiling anything."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from kdjax import nets

# Counted with PyTorch on RepDistiller's models/resnet.py and models/wrn.py
# (commit b84f547), num_classes=100, for 32x32x3.
PUBLISHED = {
  "resnet8": 83_892,
  "resnet14": 181_108,
  "resnet20": 278_324,
  "resnet32": 472_756,
  "resnet44": 667_188,
  "resnet56": 861_620,
  "resnet110": 1_736_564,
  "resnet8x4": 1_233_540,
  "resnet32x4": 7_433_860,
  "wrn-16-1": 180_916,
  "wrn-16-2": 703_284,
  "wrn-40-1": 569_780,
  "wrn-40-2": 2_255_156,
}


def _state(name, **options):
  """The abstract parameters, built without computing them."""
  return jax.eval_shape(
    lambda: nnx.state(nets.create(name, rngs=nnx.Rngs(0), **options), nnx.Param)
  )


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
  state = _state(name, input_shape=(32, 32, 3), num_classes=100)
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) == PUBLISHED[name]


@pytest.mark.parametrize("input_shape", [(8, 8, 1), (33, 28, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "name", ["mlp", "convnet", "resnet8", "resnet8x4", "wrn-16-2"]
)
def test_any_size_channels_and_dtype(name, dtype, input_shape):
  options = {"input_shape": input_shape, "num_classes": 7, "dtype": dtype}

  def run(inputs):
    return nets.create(name, rngs=nnx.Rngs(0), **options)(inputs)

  outputs = jax.eval_shape(run, jnp.zeros((3, *input_shape)))
  assert outputs.logits.shape == (3, 7)
  assert outputs.logits.dtype == jnp.float32
  assert outputs.embedding.shape[0] == 3
  assert outputs.embedding.dtype == jnp.float32
  assert list(outputs.features) == sorted(outputs.features)
  assert {f.dtype for f in outputs.features.values()} == {jnp.dtype(dtype)}
  parameters = jax.tree.leaves(_state(name, **options))
  assert {leaf.dtype for leaf in parameters} == {jnp.dtype(jnp.float32)}


def test_options_reach_the_network():
  shape = {"input_shape": (8, 8, 1), "num_classes": 10}
  state = _state("mlp", hidden=(5,), **shape)
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 65 * 5 + 6 * 10
  with pytest.raises(TypeError, match="depht"):
    _state("mlp", depht=3, **shape)


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(ValueError, match=r"'resnet9'; expected one of convnet, "):
    _state("resnet9", input_shape=(8, 8, 1), num_classes=10)
