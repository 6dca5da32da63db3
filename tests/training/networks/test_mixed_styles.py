"""MixStyle and EFDMix inside a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import generalization, nets, training

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(6, 8, 8, 1)), jnp.float32)


def convnet():
  return nets.create(
    "convnet", input_shape=(8, 8, 1), num_classes=3, rngs=nnx.Rngs(0)
  )


def models(**options):
  plain = convnet()
  mixing = training.mixed_styles(
    plain, ["convolutions/0"], rngs=nnx.Rngs(1), **options
  )
  return plain, mixing


@pytest.mark.slow
def test_the_variables_stay_and_evaluation_does_too():
  plain, mixing = map(training.from_nnx, models())
  trees = plain.variables.params, mixing.variables.params
  assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
  ours, theirs = (
    model.forward(plain.variables, IMAGES, train=False, key=None)[0].logits
    for model in (plain, mixing)
  )
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["mixstyle", "efdmix"])
def test_training_mixes_the_maps_of_other_domains(way):
  plain, mixing = models(way=way, num_domains=2, probability=1.0)
  maps = plain.convolutions[0](IMAGES)
  stream = mixing.convolutions[0].mixing.stream
  key = nnx.clone(stream)()
  expected = getattr(generalization, way)(
    features=maps,
    key=key,
    alpha=0.1,
    probability=1.0,
    mix="crossdomain",
    domains=jnp.array([0, 0, 0, 1, 1, 1]),
  )
  mixing.train()
  mixed = mixing.convolutions[0](IMAGES)
  np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)
  assert not np.allclose(mixed, maps)
  # The network that was given stays as it was.
  np.testing.assert_array_equal(plain.convolutions[0](IMAGES), maps)


@pytest.mark.slow
def test_each_key_of_the_forward_mixes_otherwise():
  _, mixing = models(num_domains=3, probability=1.0)
  model = training.from_nnx(mixing)
  first, again, second = (
    model.forward(
      model.variables, IMAGES, train=True, key=jax.random.key(seed)
    )[0].logits
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, second)


def test_what_will_not_do_is_named():
  with pytest.raises(ValueError, match="after has 'stem', and ConvNet has no"):
    training.mixed_styles(convnet(), ["stem"], rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="way"):
    models(way="swap")
  with pytest.raises(TypeError, match=r"model is a Model|parameter 'model'"):
    training.mixed_styles(
      training.from_nnx(convnet()), ["convolutions/0"], rngs=nnx.Rngs(0)
    )
  _, mixing = models(num_domains=4)
  mixing.train()
  with pytest.raises(ValueError, match="a batch of 6; expected a multiple"):
    mixing.convolutions[0](IMAGES)
