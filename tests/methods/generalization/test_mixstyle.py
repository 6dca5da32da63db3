"""MixStyle and EFDMix inside a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import generalization, methods, nets, training

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(6, 8, 8, 1)), jnp.float32)


def convnet():
  return nets.create(
    "convnet", input_shape=(8, 8, 1), num_classes=3, rngs=nnx.Rngs(0)
  )


def models(way="mixstyle", after=("convolutions/0",), **options):
  plain = convnet()
  method = methods.create(way, after=after, **options)
  return plain, method.network(plain)


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
  plain, mixing = models(way, num_domains=2, probability=1.0)
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


def test_a_network_that_builds_its_module_is_changed_as_the_module_is():
  network = training.Network.of(
    lambda rngs: nets.create(
      "convnet", input_shape=(8, 8, 1), num_classes=3, rngs=rngs
    ),
    preprocess=lambda x: 2 * x,
  )
  method = methods.create("mixstyle", probability=1.0)
  mixing, key = method.network(network), jax.random.key(3)
  plain, mixed = (
    jax.jit(
      lambda x, network=x: (
        network.forward(network.init(key), x, train=True, key=key)[0].logits
      )
    )
    for x in (network, mixing)
  )
  assert not np.allclose(plain(IMAGES), mixed(IMAGES))


@pytest.mark.parametrize(
  ("name", "places"),
  [
    # A residual network applies a ReLU to what a stage returns.
    ("resnet8", {"stages/1/0", "stages/2/0"}),
    ("wrn-16-1", {"stages/0/1", "stages/1/1"}),
    ("convnet", {"convolutions/1"}),
    ("mobilenetv2", {"groups/2/0", "groups/3/0"}),
    ("vgg8", {"stages/1/0", "stages/2/0"}),
  ],
)
def test_the_maps_of_the_first_two_stages_are_mixed(name, places):
  method = methods.create("mixstyle", probability=1.0)

  def build():
    return nets.create(
      name, input_shape=(16, 16, 3), num_classes=3, rngs=nnx.Rngs(0)
    )

  def trace(images):
    module = method.network(build())
    module.train()
    paths = {
      "/".join(map(str, path))
      for path, x in nnx.iter_modules(module)
      if hasattr(x, "mixing")
    }
    seen.append(paths)
    return module(images)

  seen = []
  shape = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
  jax.eval_shape(trace, shape)
  assert seen[0] == places


def test_a_stages_maps_are_mixed_behind_their_relu():
  model = nets.create(
    "resnet8", input_shape=(8, 8, 1), num_classes=3, rngs=nnx.Rngs(0)
  )
  model.eval()
  features = model(IMAGES).features
  mixing = methods.create("mixstyle", probability=1.0).network(model)
  mixing.eval()
  block = mixing.stages[1][0]
  block.mixing.deterministic = False
  key = nnx.clone(block.mixing.stream)()
  maps = generalization.mixstyle(
    features=features["f1"], key=key, alpha=0.1, probability=1.0, mix="random"
  )
  np.testing.assert_allclose(
    block(features["f1"]), model.stages[1][0](maps), rtol=1e-4, atol=1e-5
  )


def test_what_will_not_do_is_named():
  with pytest.raises(ValueError, match="after has 'stem', and ConvNet has no"):
    models(after=["stem"])
  mlp = nets.MLP(3, input_shape=(8, 8, 1), hidden=(5,), rngs=nnx.Rngs(0))
  efdmix = methods.create("efdmix")
  with pytest.raises(ValueError, match="efdmix: MLP has no two stages of maps"):
    efdmix.network(mlp)
  with pytest.raises(TypeError, match="which is a Model; expected an NNX mod"):
    efdmix.network(training.from_nnx(convnet()))
  _, mixing = models(num_domains=4)
  mixing.train()
  with pytest.raises(ValueError, match="a batch of 6; expected a multiple"):
    mixing.convolutions[0](IMAGES)
