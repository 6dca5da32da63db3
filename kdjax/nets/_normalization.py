"""Normalization for several domains: IBN and domain-specific BN."""

from typing import TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from kdjax import ops
from kdjax.nets.layers import batch_norm, instance_norm

M = TypeVar("M", bound=nnx.Module)


class IBN(nnx.Module):
  """Instance-batch normalization (IBN): instance norm for some channels.

  The first channels have instance normalization, which removes contrast and
  color of an image. The other channels have batch normalization, which keeps
  them. `ImageNetResNet(norm="ibn-a")` has these layers at the places of the
  paper.

  Args:
    channels: the channels of the maps `[batch, height, width, channels]`.
    share: the fraction of channels with instance normalization.
    dtype: the dtype of the result; None for that of the inputs.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if one of the two parts has no channels.

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
        f"share is {share}; expected a fraction that leaves at least one of "
        f"{channels} channels to each part."
      )
    self.instance = instance_norm(self.split, dtype=dtype, rngs=rngs)
    self.batch = batch_norm(channels - self.split, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    instance, batch = jnp.split(x, [self.split], -1)
    return jnp.concatenate([self.instance(instance), self.batch(batch)], -1)


class DomainBatchNorm(nnx.Module):
  """Domain-specific batch normalization (DSBN): one layer for each domain.

  Every domain has its own statistics, scale and bias. The current domain is an
  attribute: `model.set_attributes(domain=1)` sets it in all layers. After that,
  `training.from_nnx(model)` returns the forward function of that domain and the
  variables of all domains. A forward pass updates only the statistics of its
  domain, and only the parameters of its domain get a gradient.

  Args:
    norm: a batch normalization, which is copied for each domain. It may be
      trained.
    num_domains: the number of domains.

  Raises:
    TypeError: if `num_domains` is not an integer.
    ValueError: if `num_domains` is below 1.

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

  def __init__(self, norm: nnx.BatchNorm, num_domains: int):
    ops.check_integer("num_domains", num_domains, 1)
    self.domain = 0
    self.norms = nnx.List([nnx.clone(norm) for _ in range(num_domains)])

  def __call__(self, x: Array) -> Array:
    return self.norms[self.domain](x)

  @property
  def scale(self) -> nnx.Param | None:
    return self.norms[self.domain].scale

  @property
  def bias(self) -> nnx.Param | None:
    return self.norms[self.domain].bias


def domain_batch_norms(model: M, num_domains: int) -> M:
  """Domain-specific batch normalization (DSBN): in all layers of a network.

  Args:
    model: a network, which does not change. It may be trained.
    num_domains: the number of domains.

  Returns:
    A copy of the network with a `DomainBatchNorm` instead of each batch
    normalization. All domains have equal initial values, as published.

  Raises:
    TypeError: if `num_domains` is not an integer.
    ValueError: if `num_domains` is below 1.

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
        setattr(module, name, DomainBatchNorm(child, num_domains))
  return model
