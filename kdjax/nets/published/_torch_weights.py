"""Published PyTorch weights, loaded by an explicit map of keys."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax.nets._normalization import IBN
from kdjax.nets.images._imagenet_resnet import ImageNetResNet
from kdjax.nets.images._mobilenet import MobileNetV2
from kdjax.nets.images._resnet import ResNet, WideResNet
from kdjax.nets.images._shufflenet import ShuffleNetV1, ShuffleNetV2
from kdjax.nets.images._vgg import VGG
from kdjax.nets.images._vit import ViT
from kdjax.nets.layers import ConvNorm
from kdjax.nets.published._torch_file import SUFFIXES, read_torch_file
from kdjax.nets.sound._crepe import CREPE

M = TypeVar("M", bound=nnx.Module)
# The prefix of a key and its layer or parameter.
_Pairs = Iterator[tuple[str, Any]]
_HEADS = {"classifier", "classifier.0", "fc", "head", "head_dist", "linear"}
# An error about the weights of another network lists only so many keys.
_SHOWN = 5


def load_torch(
  model: M,
  weights: str | os.PathLike[str] | Mapping[str, Any],
  *,
  head: bool = True,
) -> M:
  """Loads published PyTorch weights into a network.

  The keys are those of torchvision for `ImageNetResNet` with the "imagenet"
  stem, of IBN-Net if it also has IBN, of timm and DeiT for `ViT`, of torchcrepe
  for `CREPE`, and of RepDistiller and mdistiller for all other networks. The
  model may come from `nnx.eval_shape`, because all values are replaced. The
  model does not change unless all keys and shapes fit.

  Args:
    model: any image network of this package except the MLP and the ConvNet, or
      a CREPE.
    weights: the path of a safetensors file (which needs the extra
      `kdjax[experiments]`) or of PyTorch's own file of a state dict (.pth, .pt,
      .bin), which is read without PyTorch and without running its pickle; or a
      state dict: arrays or CPU tensors by key.
    head: whether to load the classifier too. If not, the classifier does not
      change and may have another number of classes than the weights.

  Returns:
    The same model.

  Raises:
    TypeError: if no map of keys exists for the model.
    ValueError: if keys are missing or left over, a tensor has another shape
      than the model's variable, or a file of PyTorch has anything but tensors.
    ModuleNotFoundError: if safetensors is needed but not installed.

  Examples:
    >>> from flax import nnx
    >>> build = lambda: ResNet(8, 10, input_shape=(8, 8, 3), rngs=nnx.Rngs(0))
    >>> load_torch(nnx.eval_shape(build), {"conv1.weight": np.zeros((16, 3))})
    Traceback (most recent call last):
    ValueError: weights do not fit ResNet:
      conv1.weight has shape (16, 3); expected (16, 3, 3, 3)
      bn1.weight is missing; expected shape (16,)
      ...

  References:
    `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    `torchvision <https://github.com/pytorch/vision>`_ and `timm
    <https://github.com/huggingface/pytorch-image-models>`_ name the keys.
  """
  if type(model) not in _MAPS:
    known = ", ".join(sorted(kind.__name__ for kind in _MAPS))
    raise TypeError(
      f"model is of type {type(model).__name__}; expected one of {known}."
    )
  tensors = dict(weights if isinstance(weights, Mapping) else _read(weights))
  problems, values = [], []
  for name, layer in _MAPS[type(model)](model):
    wanted = head or name not in _HEADS
    for key, variable, axes in _tensors(name, layer):
      tensor = tensors.pop(key, None)
      expected = tuple(variable.shape[i] for i in np.argsort(axes))
      if not wanted:
        continue
      if tensor is None:
        problems.append(f"{key} is missing; expected shape {expected}")
      elif tuple(tensor.shape) != expected:
        shape = tuple(tensor.shape)
        problems.append(f"{key} has shape {shape}; expected {expected}")
      else:
        values.append((variable, _as_array(tensor).transpose(axes)))
  problems += [
    f"{key} is left over, {_describe(tensor)}"
    for key, tensor in tensors.items()
    if not key.endswith(".num_batches_tracked")
  ]
  if problems:
    lines = problems[:_SHOWN]
    if more := len(problems) - len(lines):
      lines.append(f"... and {more} more.")
    raise ValueError(
      "\n  ".join([f"weights do not fit {type(model).__name__}:", *lines])
    )
  for variable, value in values:
    variable.set_value(jnp.asarray(value, variable.dtype))
  return model


def _as_array(tensor: Any) -> np.ndarray:
  """Returns a NumPy array of a tensor, also of one that requires a gradient."""
  if hasattr(tensor, "detach"):
    tensor = tensor.detach()
    if "bfloat16" in str(tensor.dtype):
      tensor = tensor.float()
  return np.asarray(tensor)


def _describe(value: Any) -> str:
  """Describes a value of a checkpoint, which may not be a tensor."""
  if hasattr(value, "shape"):
    return f"of shape {tuple(value.shape)}"
  return f"of type {type(value).__name__}"


def _read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
  if os.fspath(path).endswith(SUFFIXES):
    return read_torch_file(path)
  try:
    from safetensors.flax import load_file
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      'reading weights needs safetensors: pip install "kdjax[experiments]".'
    ) from error
  return load_file(path)


class _Tensor(NamedTuple):
  """The key of a tensor, its variable, and the order of its axes there."""

  key: str
  variable: nnx.Variable
  axes: tuple[int, ...]


def _tensors(name: str, layer: Any) -> Iterator[_Tensor]:
  """Returns the tensors that PyTorch saves for a layer."""
  if isinstance(layer, IBN):
    yield from _tensors(f"{name}.IN", layer.instance)
    yield from _tensors(f"{name}.BN", layer.batch)
    return
  if isinstance(layer, nnx.Param):
    yield _Tensor(name, layer, tuple(range(layer.ndim)))
  elif isinstance(layer, nnx.Conv):
    yield _Tensor(f"{name}.weight", layer.kernel, (2, 3, 1, 0))
  elif isinstance(layer, nnx.Linear):
    yield _Tensor(f"{name}.weight", layer.kernel, (1, 0))
  else:
    yield _Tensor(f"{name}.weight", layer.scale, (0,))
  if getattr(layer, "bias", None) is not None:
    yield _Tensor(f"{name}.bias", layer.bias, (0,))
  if isinstance(layer, nnx.BatchNorm):
    yield _Tensor(f"{name}.running_mean", layer.mean, (0,))
    yield _Tensor(f"{name}.running_var", layer.var, (0,))


def _pair(convolution: str, norm: str, layer: ConvNorm) -> _Pairs:
  yield convolution, layer.convolution
  yield norm, layer.norm


def _numbered(prefix: str, *layers: ConvNorm) -> _Pairs:
  for i, layer in enumerate(layers, 1):
    yield from _pair(f"{prefix}conv{i}", f"{prefix}bn{i}", layer)


def _blocks(model: Any, prefix: str) -> _Pairs:
  """Returns names and blocks of all stages."""
  for i, stage in enumerate(model.stages, 1):
    for j, block in enumerate(stage):
      yield prefix.format(i, j), block


def _residual(model: Any, shortcut: str, head: str) -> _Pairs:
  yield from _numbered("", model.stem)
  for name, block in _blocks(model, "layer{}.{}"):
    yield from _numbered(f"{name}.", *block.body)
    if block.shortcut:
      prefix = f"{name}.{shortcut}"
      yield from _pair(f"{prefix}.0", f"{prefix}.1", block.shortcut)
  yield head, model.head


def _resnet(model: ResNet) -> _Pairs:
  return _residual(model, "downsample", "fc")


def _imagenet_resnet(model: ImageNetResNet) -> _Pairs:
  if model.stem_kind == "imagenet":
    return _residual(model, "downsample", "fc")
  return _residual(model, "shortcut", "linear")


def _wide_resnet(model: WideResNet) -> _Pairs:
  yield "conv1", model.stem
  for name, block in _blocks(model, "block{}.layer.{}"):
    yield f"{name}.bn1", block.norm1
    yield f"{name}.conv1", block.convolution1
    yield f"{name}.bn2", block.norm2
    yield f"{name}.conv2", block.convolution2
    if block.shortcut:
      yield f"{name}.convShortcut", block.shortcut
  yield "bn1", model.norm
  yield "fc", model.head


def _vgg(model: VGG) -> _Pairs:
  for i, stage in enumerate(model.stages):
    for j, layer in enumerate(stage):
      # A convolution, its normalization and a ReLU.
      prefix = f"block{i}"
      yield from _pair(f"{prefix}.{3 * j}", f"{prefix}.{3 * j + 1}", layer)
  yield "classifier", model.head


def _mobile(model: MobileNetV2) -> _Pairs:
  yield from _pair("conv1.0", "conv1.1", model.stem)
  for i, group in enumerate(model.groups):
    for j, block in enumerate(group):
      for k, layer in enumerate((block.expand, block.depthwise, block.project)):
        prefix = f"blocks.{i}.{j}.conv"
        yield from _pair(f"{prefix}.{3 * k}", f"{prefix}.{3 * k + 1}", layer)
  yield from _pair("conv2.0", "conv2.1", model.last)
  yield "classifier.0", model.head


def _shuffle(model: ShuffleNetV1 | ShuffleNetV2) -> _Pairs:
  last = [model.last] if isinstance(model, ShuffleNetV2) else []
  yield from _numbered("", model.stem, *last)
  for name, block in _blocks(model, "layer{}.{}"):
    yield from _numbered(f"{name}.", *block.layers)
  yield "linear", model.head


def _crepe(model: CREPE) -> _Pairs:
  pairs = zip(model.convolutions, model.norms, strict=True)
  for i, (convolution, norm) in enumerate(pairs, 1):
    yield f"conv{i}", convolution
    yield f"conv{i}_BN", norm
  yield "classifier", model.head


def _vit(model: ViT) -> _Pairs:
  tokens = zip(("cls_token", "dist_token"), model.tokens, strict=False)
  heads = zip(("head", "head_dist"), model.classifiers, strict=False)
  yield from tokens
  yield "pos_embed", model.positions
  yield "patch_embed.proj", model.patches
  for i, block in enumerate(model.blocks):
    yield f"blocks.{i}.norm1", block.norm1
    yield f"blocks.{i}.attn.qkv", block.qkv
    yield f"blocks.{i}.attn.proj", block.project
    yield f"blocks.{i}.norm2", block.norm2
    yield f"blocks.{i}.mlp.fc1", block.expand
    yield f"blocks.{i}.mlp.fc2", block.contract
  yield "norm", model.norm
  yield from heads


_MAPS: dict[type, Callable[[Any], _Pairs]] = {
  ResNet: _resnet,
  ImageNetResNet: _imagenet_resnet,
  WideResNet: _wide_resnet,
  VGG: _vgg,
  MobileNetV2: _mobile,
  ShuffleNetV1: _shuffle,
  ShuffleNetV2: _shuffle,
  ViT: _vit,
  CREPE: _crepe,
}
