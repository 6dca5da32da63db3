"""State dicts in PyTorch's layout, the same on any machine."""

import functools

import numpy as np
from flax import nnx

from kdjax import nets
from kdjax.nets.published._torch_weights import _MAPS, _tensors


@functools.cache
def abstract(name, size=32, **options):
  """A network of 100 classes without values."""
  shape = (size, size, 3)
  return nnx.eval_shape(
    lambda: nets.create(
      name, input_shape=shape, num_classes=100, rngs=nnx.Rngs(0), **options
    )
  )


def entries(model):
  """The keys, variables and axes of a network."""
  for name, layer in _MAPS[type(model)](model):
    yield from _tensors(name, layer)


def shapes(model):
  """The shape that PyTorch has for each key."""
  return {
    key: tuple(variable.shape[i] for i in np.argsort(axes))
    for key, variable, axes in entries(model)
  }


def state_dict(model):
  """Numbers for each key, such that activations do not vanish."""
  state = {}
  for key, shape in shapes(model).items():
    value = noise(shape)
    if len(shape) in (2, 4):
      value *= np.sqrt(24 / np.prod(shape[1:]))
    elif key.endswith("var") or (key.endswith("weight") and len(shape) == 1):
      value += 1
    state[key] = value.astype(np.float32)
  return state


def noise(shape):
  """Numbers in [-0.5, 0.5) from a hash of the position: the same anywhere."""
  bits = np.uint64(2**32)
  n = np.arange(1, np.prod(shape) + 1, dtype=np.uint64)
  n = n * np.uint64(2654435761) % bits
  n = (n ^ (n >> np.uint64(16))) * np.uint64(2246822519) % bits
  return ((n ^ (n >> np.uint64(13))) / 2**32 - 0.5).reshape(shape)
