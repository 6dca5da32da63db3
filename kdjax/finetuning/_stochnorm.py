"""Stochastic normalization (StochNorm)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.exportable
class StochNorm(NamedTuple):
  """The result of `stochnorm`.

  Attributes:
    outputs: the normalized features, of the same shape and dtype.
    mean: the new moving mean `[channels]`.
    variance: the new moving variance `[channels]`.

  References:
    Kou et al., `Stochastic normalization
    <https://proceedings.neurips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html>`_,
    2020.
  """

  outputs: Float[Array, "batch *positions channels"]
  mean: Float[Array, " channels"]
  variance: Float[Array, " channels"]


@ops.validate
def stochnorm(
  key: Array | None,
  features: Float[Array, "batch *positions channels"],
  mean: Float[Array, " channels"],
  variance: Float[Array, " channels"],
  scale: Float[Array, " channels"] | None = None,
  bias: Float[Array, " channels"] | None = None,
  *,
  probability: ArrayLike = 0.5,
  momentum: ArrayLike = 0.1,
  epsilon: ArrayLike = 1e-5,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> StochNorm:
  r"""Stochastic normalization (StochNorm): random statistics for each channel.

  .. math::
    y = \gamma \Bigl[ (1 - s) \frac{x - \tilde\mu}{\sqrt{\tilde v + \epsilon}}
      + s \frac{x - \mu}{\sqrt{v + \epsilon}} \Bigr] + \beta, \qquad
    s \sim \text{Bernoulli}(p)

  with the mean and variance of the batch for s = 1, and the moving mean and
  variance before this batch (marked by a tilde) for s = 0. It replaces batch
  normalization and regularizes fine-tuning.

  Args:
    key: draws s for each channel, equal for all examples. Pass the same key on
      all devices of `axis_name`. None for evaluation: all channels use the
      moving statistics, which do not change.
    features: `[batch, ..., channels]`.
    mean: the moving mean; no gradient.
    variance: the moving variance; no gradient.
    scale: gamma; None for 1.
    bias: beta; None for 0.
    probability: p in [0, 1]; 1 is batch normalization. May be traced.
    momentum: the weight of the batch in the new moving statistics, as in
      PyTorch (1 minus Flax's momentum). May be traced.
    epsilon: above 0. May be traced.
    where: `[batch]`, True for the examples to use; the outputs of the others
      are 0.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A `StochNorm`. As in PyTorch, the variance divides by n in the normalization
    and by n - 1 in the moving variance. A batch without examples to use does
    not change the moving statistics.

  Raises:
    ValueError: if shapes differ, or a static number is out of range.
    TypeError: if an array is not floating-point.

  Statistics are float32 for half-precision features. TLlib draws s on the host
  from NumPy's global state. The published default of p is 0.5.

  Examples:
    >>> x = jnp.array([[1.0], [3.0]])
    >>> out = stochnorm(
    ...   jax.random.key(0), x, jnp.zeros(1), jnp.ones(1), probability=1.0
    ... )
    >>> print(f"{out.outputs[1, 0]:.3f} {out.mean[0]:.1f}")
    1.000 0.2

  References:
    Kou et al., `Stochastic normalization
    <https://proceedings.neurips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html>`_,
    2020.
  """
  ops.check_positive("epsilon", epsilon)
  dtype = ops.compute_dtype(features)
  x, mask = ops.masked_rows(features, where)
  flat = x.reshape(x.shape[0], -1, x.shape[-1])
  added = ops.as_number("epsilon", epsilon, dtype)
  share = ops.as_fraction("momentum", momentum, dtype)
  chance = ops.as_fraction("probability", probability, dtype)
  moving = tuple(
    jax.lax.stop_gradient(s.astype(dtype)) for s in (mean, variance)
  )

  def normalized(center: Array, spread: Array) -> Array:
    return (flat - center) * jax.lax.rsqrt(spread + added)

  def row(channels: Array) -> Array:
    return channels[None, None]

  outputs = normalized(row(moving[0]), row(moving[1]))
  new = moving
  if key is not None:
    count = flat.shape[1] * jnp.sum(mask)
    sums = jnp.sum(flat, (0, 1))
    count, sums = ops.sum_over_devices((count, sums), axis_name)
    center = sums / jnp.maximum(count, 1)
    gaps = mask[:, None, None] * (flat - row(center))
    squares = jnp.sum(jnp.square(gaps), (0, 1))
    squares = ops.sum_over_devices(squares, axis_name)
    spread = squares / jnp.maximum(count, 1)
    batch = center, squares / jnp.maximum(count - 1, 1)
    own = jax.random.bernoulli(key, chance, center.shape)
    outputs = jnp.where(row(own), normalized(row(center), row(spread)), outputs)
    share = jnp.where(count > 0, share, 0.0)
    new = tuple(
      old + share * (jax.lax.stop_gradient(now) - old)
      for old, now in zip(moving, batch, strict=True)
    )
  if scale is not None:
    outputs *= row(scale.astype(dtype))
  if bias is not None:
    outputs += row(bias.astype(dtype))
  outputs = mask[:, None, None] * outputs
  return StochNorm(outputs.reshape(features.shape).astype(features.dtype), *new)
