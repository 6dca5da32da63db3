"""Mixed styles throughout a network: MixStyle and EFDMix."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops

M = TypeVar("M", bound=nnx.Module)
_WAYS: dict[str, Callable[..., Array]] = {
  "mixstyle": generalization.mixstyle,
  "efdmix": generalization.efdmix,
}


def mixed_styles(
  model: M,
  after: Sequence[str],
  *,
  way: str = "mixstyle",
  num_domains: int | None = None,
  alpha: ArrayLike = 0.1,
  probability: float = 0.5,
  rngs: nnx.Rngs,
) -> M:
  """Mixed styles (MixStyle, EFDMix) behind some layers of a network.

  In training the maps that a layer returns take the statistics of other
  examples' maps, by `kdjax.generalization.mixstyle` or
  `kdjax.generalization.efdmix`; evaluation is as before. The variables of
  the network fit the copy.

  Args:
    model: a network, trained or not; it stays as it is.
    after: paths of the layers, such as `("stem",)` or `("stages/0",)`, that
      return maps `[batch, height, width, channels]`. MixStyle is published
      after the first two or three blocks of a ResNet.
    way: "mixstyle" or "efdmix".
    num_domains: of the batch, one after the other and of one size, as
      `generalize` shows them: styles then come from other domains. None
      takes them from any example.
    alpha: of the Beta distribution of the mixtures.
    probability: with which a batch is mixed.
    rngs: random streams, which draw by the stream "mixed_styles". Where
      `training.from_nnx` makes a forward of the copy, its key takes their
      place; devices with other keys mix otherwise.

  Returns:
    A copy of the network.

  Raises:
    TypeError: if `model` is no NNX module: a `Model` has no layers.
    ValueError: if a path leads to no layer, or the way is none; from the
      network, if a batch is no multiple of the number of domains.

  Examples:
    >>> from kdjax import nets
    >>> model = nets.create(
    ...   "convnet", input_shape=(8, 8, 1), num_classes=3, rngs=nnx.Rngs(0)
    ... )
    >>> mixing = mixed_styles(model, ["convolutions/0"], rngs=nnx.Rngs(1))

  References:
    Zhou et al., `Domain generalization with MixStyle
    <https://arxiv.org/abs/2104.02008>`_, 2021; Zhang et al., `Exact feature
    distribution matching for arbitrary style transfer and domain generalization
    <https://arxiv.org/abs/2203.07740>`_, 2022.
  """
  if not isinstance(model, nnx.Module):
    raise TypeError(
      f"mixed_styles: model is a {type(model).__name__}; expected an "
      "nnx.Module."
    )
  ops.check_choice("mixed_styles: way", way, tuple(_WAYS))
  model = nnx.clone(model)
  for path in after:
    *owners, name = path.split("/")
    owner: Any = model
    for step in owners:
      owner = _child(path, owner, step)
    layer = _child(path, owner, name)
    layer.__class__ = _with_mixing(type(layer))
    layer.mixing = _Mixture(way, num_domains, alpha, probability, rngs)
  return model


def _child(path: str, owner: Any, name: str) -> Any:
  try:
    return owner[int(name)] if name.isdigit() else getattr(owner, name)
  except (AttributeError, IndexError, TypeError) as error:
    raise ValueError(
      f"mixed_styles: after has {path!r}, and {type(owner).__name__} has no "
      f"{name!r}; expected the path of a layer."
    ) from error


@functools.cache
def _with_mixing(layer: Any) -> Any:
  """The class of a layer that mixes; its variables keep their paths."""

  def call(self: Any, *args: Any, **options: Any) -> Array:
    maps = layer.__call__(self, *args, **options)
    return maps if self.mixing.deterministic else self.mixing(maps)

  return type(layer)(f"Mixed{layer.__name__}", (layer,), {"__call__": call})


class _Mixture(nnx.Module):
  """The mixture of the styles of maps."""

  def __init__(
    self,
    way: str,
    num_domains: int | None,
    alpha: ArrayLike,
    probability: float,
    rngs: nnx.Rngs,
  ):
    # NNX compares static attributes, and a traced alpha has no equality: the
    # function that holds it has.
    self.mix = functools.partial(
      _WAYS[way], alpha=alpha, probability=probability
    )
    self.num_domains = num_domains
    self.deterministic = False  # train(), eval()
    self.stream = rngs["mixed_styles"].fork()

  def __call__(self, maps: Array) -> Array:
    mix: dict[str, Any] = {"mix": "random"}
    if self.num_domains is not None:
      if len(maps) % self.num_domains:
        raise ValueError(
          f"mixed_styles: a batch of {len(maps)}; expected a multiple of "
          f"num_domains, {self.num_domains}."
        )
      size = len(maps) // self.num_domains
      domains = jnp.repeat(jnp.arange(self.num_domains), size)
      mix = {"mix": "crossdomain", "domains": domains}
    return self.mix(features=maps, key=self.stream(), **mix)
