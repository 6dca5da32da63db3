"""Networks by their names in the papers."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from kdjax import ops
from kdjax.nets.images._convnet import ConvNet
from kdjax.nets.images._imagenet_resnet import ImageNetResNet
from kdjax.nets.images._mlp import MLP
from kdjax.nets.images._mobilenet import MobileNetV2
from kdjax.nets.images._resnet import ResNet, WideResNet
from kdjax.nets.images._shufflenet import ShuffleNetV1, ShuffleNetV2
from kdjax.nets.images._vgg import VGG
from kdjax.nets.images._vit import ViT


def create(
  name: str,
  *,
  input_shape: tuple[int, int, int],
  num_classes: int,
  rngs: nnx.Rngs,
  dtype: DTypeLike = jnp.float32,
  **options: Any,
) -> nnx.Module:
  """Builds a network by its name.

  Args:
    name: "mlp", "convnet", "resnet8" to "resnet110", "resnet8x4",
      "resnet32x4", "wrn-16-1", "wrn-16-2", "wrn-40-1", "wrn-40-2", "resnet18",
      "resnet34", "resnet50" (3x3 stem for CIFAR), "imagenet-resnet18",
      "imagenet-resnet34", "imagenet-resnet50", "vgg8", "vgg11", "vgg13",
      "vgg16", "vgg19", "mobilenetv2" (half width), "shufflenetv1",
      "shufflenetv2", "deit-tiny" or "deit-small".
    input_shape: (height, width, channels) of an image.
    num_classes: the number of logits.
    rngs: random streams for the parameters and, if used, for dropout.
    dtype: the dtype in which the body computes.
    **options: further arguments of the network's class, such as `hidden`,
      `dropout` or `patch_size`.

  Returns:
    A module that maps images `[batch, height, width, channels]` to `Outputs`.

  Raises:
    TypeError: if rngs is not an `nnx.Rngs`, num_classes is not an integer, or
      the network does not have an option.
    ValueError: if the name is unknown, or input_shape is not three positive
      integers.

  Examples:
    >>> student = create(
    ...   "mlp", input_shape=(8, 8, 1), num_classes=10, rngs=nnx.Rngs(0)
    ... )
    >>> create(
    ...   "resnet9", input_shape=(8, 8, 1), num_classes=10, rngs=nnx.Rngs(0)
    ... )  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: name is 'resnet9'; expected one of convnet, deit-small, ...

  References:
    The names are those of `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_ and of the papers' tables.
  """
  if name not in _NETWORKS:
    raise ValueError(
      f"name is {name!r}; expected one of {', '.join(sorted(_NETWORKS))}."
    )
  input_shape = ops.as_sizes(
    "input_shape, (height, width, channels),", input_shape, 3
  )
  ops.check_integer("num_classes", num_classes, 1)
  if not isinstance(rngs, nnx.Rngs):
    raise TypeError(
      f"rngs is a {type(rngs).__name__}; expected random streams, such as "
      "nnx.Rngs(0)."
    )
  return _NETWORKS[name](
    num_classes=num_classes,
    input_shape=input_shape,
    dtype=dtype,
    rngs=rngs,
    **options,
  )


_NETWORKS: dict[str, Callable[..., nnx.Module]] = {
  "mlp": MLP,
  "convnet": ConvNet,
  **{
    f"resnet{depth}": functools.partial(ResNet, depth)
    for depth in (8, 14, 20, 32, 44, 56, 110)
  },
  **{
    f"resnet{depth}x4": functools.partial(
      ResNet, depth, channels=(32, 64, 128, 256)
    )
    for depth in (8, 32)
  },
  **{
    f"wrn-{depth}-{widen_factor}": functools.partial(
      WideResNet, depth, widen_factor
    )
    for depth in (16, 40)
    for widen_factor in (1, 2)
  },
  **{
    f"{prefix}resnet{depth}": functools.partial(
      ImageNetResNet, depth, stem=stem
    )
    for depth in (18, 34, 50)
    for prefix, stem in (("", "cifar"), ("imagenet-", "imagenet"))
  },
  **{
    f"vgg{depth}": functools.partial(VGG, depth)
    for depth in (8, 11, 13, 16, 19)
  },
  "mobilenetv2": MobileNetV2,
  "shufflenetv1": ShuffleNetV1,
  "shufflenetv2": ShuffleNetV2,
  "deit-tiny": ViT,
  "deit-small": functools.partial(ViT, width=384, num_heads=6),
}
