"""Instance-batch normalization and a normalization for each domain."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets
from kdjax.nets import IBN, DomainBatchNorm, ResNet, domain_batch_norms
from kdjax.training import from_nnx
from tests.nets import torch_names

# The first digits of SHA-256 over the sorted lines "key shape" of the state
# dicts of IBN-Net's models, num_batches_tracked left out.
KEYS = {
  "imagenet-resnet18": "150725362e9658e6",
  "imagenet-resnet50": "aa476ad964e933dd",
}
MAPS = np.random.default_rng(0).normal(size=(8, 3, 2, 5)) + np.arange(5)
MAPS = np.float32(MAPS * np.arange(1, 9)[:, None, None, None])


@nnx.jit
def apply(module, maps):
  return module(maps)


def normalized(x, axes):
  x = np.float64(x)
  return (x - x.mean(axes, keepdims=True)) / np.sqrt(
    x.var(axes, keepdims=True) + 1e-5
  )


def ibn(**options):
  norm = IBN(5, share=0.4, rngs=nnx.Rngs(0), **options)
  norm.instance.scale[...] = jnp.array([2.0, 3.0])
  norm.instance.bias[...] = jnp.array([1.0, -1.0])
  return norm


def test_ibn_equals_numpy():
  norm = ibn()
  instance = normalized(MAPS[..., :2], (1, 2)) * [2, 3] + [1, -1]
  batch = normalized(MAPS[..., 2:], (0, 1, 2))
  got = np.asarray(apply(norm, MAPS))
  np.testing.assert_allclose(got[..., :2], instance, atol=2e-4)
  np.testing.assert_allclose(got[..., 2:], batch, atol=2e-4)
  # In evaluation images are still normalized one by one, the rest as it was.
  mean = 0.1 * MAPS[..., 2:].mean((0, 1, 2))
  np.testing.assert_allclose(norm.batch.mean[...], mean, rtol=1e-5)
  norm.eval()
  got = np.asarray(apply(norm, MAPS))
  np.testing.assert_allclose(got[..., :2], instance, atol=2e-4)
  deviation = np.sqrt(0.9 + 0.1 * MAPS[..., 2:].var((0, 1, 2)) + 1e-5)
  np.testing.assert_allclose(
    got[..., 2:], (MAPS[..., 2:] - mean) / deviation, rtol=1e-4, atol=1e-5
  )


def test_ibn_over_an_axis_is_that_of_the_whole_batch():
  norm = ibn()
  nets.set_batch_axis(norm, "data")
  graph, state = nnx.split(norm)

  @jax.jit
  @functools.partial(jax.vmap, axis_name="data")
  def run(maps):
    return nnx.merge(graph, state, copy=True)(maps)

  got = run(MAPS.reshape(4, 2, 3, 2, 5))
  np.testing.assert_allclose(
    np.reshape(got, MAPS.shape), apply(ibn(), MAPS), rtol=1e-4, atol=1e-4
  )


def test_ibn_in_half_precision_keeps_its_statistics():
  norm = ibn(dtype=jnp.bfloat16)
  got = apply(norm, MAPS.astype(jnp.bfloat16))
  assert got.dtype == jnp.bfloat16
  assert norm.batch.mean[...].dtype == jnp.float32
  np.testing.assert_allclose(np.float32(got), apply(ibn(), MAPS), atol=0.1)


@pytest.mark.parametrize("name", KEYS)
def test_ibn_networks_have_the_published_layers(name):
  model = torch_names.abstract(name, norm="ibn-a")
  shapes = torch_names.shapes(model)
  lines = sorted(f"{key} {shape}" for key, shape in shapes.items())
  digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
  assert digest[:16] == KEYS[name]
  layers = [isinstance(x, IBN) for _, x in nnx.iter_modules(model)]
  blocks = {"imagenet-resnet18": 6, "imagenet-resnet50": 13}
  assert sum(layers) == blocks[name]


def test_domains_do_not_mix():
  norm = DomainBatchNorm(nnx.BatchNorm(5, rngs=nnx.Rngs(0)), 2)
  norm.set_attributes(domain=1)
  got = apply(norm, MAPS)
  np.testing.assert_allclose(got, normalized(MAPS, (0, 1, 2)), atol=2e-4)
  np.testing.assert_array_equal(norm.norms[0].mean[...], 0)
  np.testing.assert_allclose(
    norm.norms[1].mean[...], 0.01 * MAPS.mean((0, 1, 2)), rtol=1e-4
  )
  graph, params, stats = nnx.split(norm, nnx.Param, nnx.BatchStat)

  @jax.jit
  @jax.grad
  def gradient(params, maps):
    maps = nnx.merge(graph, params, stats, copy=True)(maps)
    return jnp.sum(jnp.square(maps - 1))

  gradients = nnx.to_pure_dict(gradient(params, MAPS))["norms"]
  assert not np.any(gradients[0]["bias"])
  assert np.all(gradients[1]["bias"] != 0)


class _Listed(nnx.Module):
  def __init__(self, rngs):
    self.layers = nnx.List([nnx.BatchNorm(5, rngs=rngs)])


@nnx.jit
def _built():
  """In one program: built eagerly, every shape is compiled alone."""
  return ResNet(
    8, 3, input_shape=(8, 8, 1), channels=(2, 2, 3, 4), rngs=nnx.Rngs(0)
  )


def test_a_network_with_a_normalization_for_each_domain():
  """Its two forwards share the variables, and start as the network was."""
  model = _built()
  images = np.float32(MAPS[..., :1].repeat(3, 1)[:, :8].repeat(4, 2))
  plain = from_nnx(model)
  double = domain_batch_norms(model, 2)
  source = from_nnx(double)
  double.set_attributes(domain=1)
  target = from_nnx(double)
  assert jax.tree.structure(source.variables) == jax.tree.structure(
    target.variables
  )

  @jax.jit
  def run(plain_variables, variables):
    before, _ = plain.forward(plain_variables, images, train=True, key=None)
    after, state = source.forward(variables, images, train=True, key=None)
    variables = variables._replace(state=state)
    outputs = [
      model.forward(variables, images, train=False, key=None)[0]
      for model in (source, target)
    ]
    return before, after, *outputs

  before, after, adapted, other = jax.device_get(
    run(plain.variables, source.variables)
  )
  np.testing.assert_allclose(after.logits, before.logits, atol=1e-5)
  assert np.max(np.abs(adapted.logits - other.logits)) > 1e-3
  assert list(after.normalizations) == list(before.normalizations)
  assert isinstance(model.stem.norm, nnx.BatchNorm)
  listed = domain_batch_norms(_Listed(nnx.Rngs(0)), 2)
  assert isinstance(listed.layers[0], DomainBatchNorm)


def test_impossible_options_name_the_argument():
  rngs = nnx.Rngs(0)
  with pytest.raises(ValueError, match=r"share is 0.1; expected a fraction"):
    IBN(5, share=0.1, rngs=rngs)
  with pytest.raises(ValueError, match="norm is 'ibn-b'"):
    nets.create(
      "resnet18",
      input_shape=(32, 32, 3),
      num_classes=3,
      norm="ibn-b",
      rngs=rngs,
    )
  with pytest.raises(ValueError, match="domains is 0"):
    DomainBatchNorm(nnx.BatchNorm(3, rngs=rngs), 0)
