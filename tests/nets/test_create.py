"""Every name, its size and what it returns, without compiling anything."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets
from tests.nets import torch_names

# Counted with PyTorch on RepDistiller's models (commit b84f547),
# num_classes=100, for 32x32x3.
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
  "resnet18": 11_220_132,
  "resnet34": 21_328_292,
  "resnet50": 23_705_252,
  "vgg8": 3_965_028,
  "vgg11": 9_277_284,
  "vgg13": 9_462_180,
  "vgg16": 14_774_436,
  "vgg19": 20_086_692,
  "mobilenetv2": 812_836,
  "shufflenetv1": 949_258,
  "shufflenetv2": 1_355_528,
}
# Of each family, for the quick tier.
ONE_OF_EACH = {
  "resnet20",
  "resnet8x4",
  "resnet18",
  "wrn-16-2",
  "vgg8",
  "mobilenetv2",
}
# As torchvision and DeiT publish them, for 1000 classes and 224x224x3.
IMAGENET = {
  ("imagenet-resnet18", ()): 11_689_512,
  ("imagenet-resnet34", ()): 21_797_672,
  ("imagenet-resnet50", ()): 25_557_032,
  ("deit-tiny", ()): 5_717_416,
  ("deit-tiny", (("distillation_token", True),)): 5_910_800,
  ("deit-small", ()): 22_050_664,
  ("deit-small", (("distillation_token", True),)): 22_436_432,
}


def _parameters(model):
  return jax.tree.leaves(nnx.state(model, nnx.Param))


def _abstract(name, **options):
  """The network without values."""
  return nnx.eval_shape(lambda: nets.create(name, rngs=nnx.Rngs(0), **options))


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[] if name in ONE_OF_EACH else pytest.mark.slow)
    for name in PUBLISHED
  ],
)
def test_parameter_counts_are_the_published_ones(name):
  parameters = _parameters(torch_names.abstract(name))
  assert sum(leaf.size for leaf in parameters) == PUBLISHED[name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), IMAGENET)
def test_parameter_counts_for_imagenet_too(name, options):
  shape = {"input_shape": (224, 224, 3), "num_classes": 1000}
  parameters = _parameters(_abstract(name, **shape, **dict(options)))
  assert sum(leaf.size for leaf in parameters) == IMAGENET[name, options]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "dtype", "input_shape"),
  [
    ("mlp", jnp.float32, (8, 8, 1)),
    ("mlp", jnp.bfloat16, (33, 28, 3)),
    ("convnet", jnp.float32, (33, 28, 3)),
    ("convnet", jnp.bfloat16, (8, 8, 1)),
    ("resnet8", jnp.float32, (8, 8, 1)),
    ("resnet8x4", jnp.bfloat16, (33, 28, 3)),
    ("wrn-16-2", jnp.float32, (33, 28, 3)),
    ("wrn-16-2", jnp.bfloat16, (8, 8, 1)),
    ("resnet18", jnp.bfloat16, (8, 8, 1)),
    ("imagenet-resnet50", jnp.bfloat16, (33, 28, 3)),
    ("vgg8", jnp.bfloat16, (8, 8, 1)),
    ("vgg13", jnp.float32, (33, 28, 3)),
    ("mobilenetv2", jnp.bfloat16, (8, 8, 1)),
    ("shufflenetv1", jnp.bfloat16, (33, 28, 3)),
    ("shufflenetv2", jnp.bfloat16, (8, 8, 1)),
    ("deit-tiny", jnp.bfloat16, (32, 16, 1)),
  ],
)
def test_any_size_channels_and_dtype(name, dtype, input_shape):

  def run(inputs):
    model = nets.create(
      name,
      input_shape=input_shape,
      num_classes=7,
      dtype=dtype,
      rngs=nnx.Rngs(0),
    )
    return model(inputs), _parameters(model)

  inputs = jax.ShapeDtypeStruct((3, *input_shape), jnp.float32)
  outputs, parameters = jax.eval_shape(run, inputs)
  assert outputs.logits.shape == (3, 7)
  assert outputs.logits.dtype == jnp.float32
  assert outputs.embedding.dtype == jnp.float32
  kernel, bias = outputs.classifier
  assert outputs.embedding.shape == (3, kernel.shape[0])
  assert (kernel.shape[1], bias.shape) == (7, (7,))
  names = list(outputs.features)
  assert names == sorted(names)
  assert {f.dtype for f in outputs.features.values()} == {jnp.dtype(dtype)}
  assert {leaf.dtype for leaf in parameters} == {jnp.dtype("float32")}
  for before, feature in zip(
    (outputs.preactivations or {}).values(),
    outputs.features.values(),
    strict=outputs.preactivations is not None,
  ):
    assert (before.shape, before.dtype) == (feature.shape, feature.dtype)
  norms = outputs.normalizations or {}
  assert list(norms) in ([], names[1:])
  for feature, (mean, scale) in norms.items():
    channels = outputs.features[feature].shape[-1:]
    assert mean.shape == scale.shape == channels
  assert list(outputs.attention or names) == names


def test_options_reach_the_network():
  shape = {"input_shape": (8, 8, 1), "num_classes": 10}
  parameters = _parameters(_abstract("mlp", hidden=(5,), **shape))
  assert sum(leaf.size for leaf in parameters) == 65 * 5 + 6 * 10
  with pytest.raises(TypeError, match="depht"):
    _abstract("mlp", depht=3, **shape)


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(ValueError, match=r"'resnet9'; expected one of convnet, "):
    _abstract("resnet9", input_shape=(8, 8, 1), num_classes=10)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "deviation"),
  [
    ("resnet8", 1 / 8),
    ("resnet18", 512**-0.5),
    ("shufflenetv1", 960**-0.5),
    ("shufflenetv2", 1024**-0.5),
    ("wrn-16-1", 0),
    ("vgg8", 0),
    ("mobilenetv2", 0),
    ("deit-tiny", 0),
  ],
)
def test_classifiers_start_where_the_published_ones_do(name, deviation):
  """PyTorch's uniform bias, but zeros where the authors say so."""

  def head():
    model = nets.create(
      name, input_shape=(32, 32, 3), num_classes=1000, rngs=nnx.Rngs(0)
    )
    layer = model.classifiers[0] if name == "deit-tiny" else model.head
    # The bias of DeiT's patches is PyTorch's, those of its tokens are not.
    patches = model.patches.bias[...] if name == "deit-tiny" else None
    return layer.bias[...], patches

  # The rest is never computed.
  bias, patches = jax.device_get(jax.jit(head)())
  assert np.abs(bias).max() <= deviation
  np.testing.assert_allclose(bias.std(), deviation / 3**0.5, rtol=0.1)
  if patches is not None:
    np.testing.assert_allclose(patches.std(), (3 * 768) ** -0.5, rtol=0.15)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"input_shape": (8, 8)}, r"channels\), is \(8, 8\); expected 3 positive"),
    ({"input_shape": 8}, r"input_shape, .*, is 8; expected 3 positive"),
    ({"input_shape": (1, 8.0, 8)}, r"input_shape, .* expected 3 positive"),
    ({"num_classes": 0}, r"num_classes is 0; expected an integer from 1"),
    ({"num_classes": 10.0}, r"num_classes is 10.0; expected an integer"),
    ({"rngs": 0}, r"rngs is a int; expected random streams"),
    ({"hidden": (0,)}, r"hidden is \(0,\); expected a sequence of positive"),
    ({"name": "convnet", "channels": (-1,)}, r"channels is \(-1,\); expected"),
  ],
)
def test_what_is_no_shape_is_refused(change, words):
  given = {
    "name": "mlp",
    "input_shape": (8, 8, 1),
    "num_classes": 10,
    "rngs": nnx.Rngs(0),
  }
  with pytest.raises((TypeError, ValueError), match=words):
    inspect.unwrap(nets.create)(**given | change)
