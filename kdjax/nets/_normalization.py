"""Normalization that tells domains apart: IBN and domain-specific BN."""

from typing import TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from kdjax.nets.layers import batch_norm
from kdjax.nets.layers import instance_norm
from kdjax.ops import check_integer

M = TypeVar("M", bound=nnx.Module)


class IBN(nnx.Module):
  """Instance-batch normalization (IBN): part of the channels lose their style.

  The first channels are normalized image by image, which takes contrast and
  color away, the others over the batch, which keeps them. `norm="ibn-a"` of
  `ImageNetResNet` has it where the paper has.

  Args:
    channels: of the maps `[batch, height, width, channels]`.
    share: of the channels that are normalized image by image.
    dtype: what the result is in; the inputs' by default.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if one of the two parts has no channel.

  Examples:
    >>> from flax import nnx
    >>> norm = IBN(4, rngs=nnx.Rngs(0))
    >>> maps = jnp.zeros((1, 2, 2, 4)).at[0, 0].set(1.0)
    >>> print(norm(maps)[0, :, 0, 0].round(2))
    [ 1. -1.]

  References:
    Pan et al., `Two at once: enhancing learning and generalization capacities
    via IBN-Net <https://arxiv.org/abs/1807.09441>`_, 2018.
  """

  def __init__(
    self,
    channels: int,
    *,
    share: float = 0.5,
    dtype: DTypeLike | None = None,
    rngs: nnx.Rngs,
  ):
    self.split = int(channels * share)
    if not 0 < self.split < channels:
      raise ValueError(
        f"share is {share}; expected one that splits {channels} channels."
      )
    self.instance = instance_norm(self.split, dtype=dtype, rngs=rngs)
    self.batch = batch_norm(channels - self.split, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    instance, batch = jnp.split(x, [self.split], -1)
    return jnp.concatenate([self.instance(instance), self.batch(batch)], -1)


class DomainBatchNorm(nnx.Module):
  """Domain-specific batch normalization (DSBN): statistics for each domain.

  And scale and bias for each. The domain is an attribute, as training and
  evaluation are: `model.set_attributes(domain=1)` sets it in all layers, and
  `training.from_nnx(model)` then gives the forward of that domain, for the
  variables of all. Only that domain's statistics move and only its parameters
  get a gradient.

  Args:
    norm: a normalization to copy for each domain, trained or not.
    domains: how many there are.

  Raises:
    TypeError: if `domains` is no integer.
    ValueError: if it is below 1.

  Examples:
    >>> from flax import nnx
    >>> norm = DomainBatchNorm(nnx.BatchNorm(1, rngs=nnx.Rngs(0)), 2)
    >>> norm.set_attributes(domain=1)
    >>> print(norm(jnp.array([[1.0], [3.0]])).ravel().round(2))
    [-1.  1.]
    >>> print(*(n.mean[...].round(2) for n in norm.norms))
    [0.] [0.02]

  References:
    Chang et al., `Domain-specific batch normalization for unsupervised domain
    adaptation <https://arxiv.org/abs/1906.03950>`_, 2019.
  """

  def __init__(self, norm: nnx.BatchNorm, domains: int):
    check_integer("domains", domains, 1)
    self.domain = 0
    self.norms = nnx.List([nnx.clone(norm) for _ in range(domains)])

  def __call__(self, x: Array) -> Array:
    return self.norms[self.domain](x)

  @property
  def scale(self) -> nnx.Param | None:
    return self.norms[self.domain].scale

  @property
  def bias(self) -> nnx.Param | None:
    return self.norms[self.domain].bias


def domain_batch_norms(model: M, domains: int) -> M:
  """Domain-specific batch normalization (DSBN) throughout a network.

  Args:
    model: a network, trained or not; it stays as it is.
    domains: how many there are.

  Returns:
    A copy with a `DomainBatchNorm` for each batch normalization; all
    domains start alike, as published.

  Raises:
    TypeError: if `domains` is no integer.
    ValueError: if it is below 1.

  Examples:
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs))
    >>> model.norm = nnx.BatchNorm(4, rngs=rngs)
    >>> type(domain_batch_norms(model, 2).norm).__name__
    'DomainBatchNorm'

  References:
    Chang et al., `Domain-specific batch normalization for unsupervised domain
    adaptation <https://arxiv.org/abs/1906.03950>`_, 2019.
  """
  model = nnx.clone(model)
  for _, module in list(nnx.iter_modules(model)):
    for name, child in list(vars(module).items()):
      if isinstance(child, nnx.BatchNorm):
        setattr(module, name, DomainBatchNorm(child, domains))
  return model
