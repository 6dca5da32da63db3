"""Stochastic normalization."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_fraction
from kdjax.ops import as_number
from kdjax.ops import check_positive
from kdjax.ops import compute_dtype
from kdjax.ops import masked_rows
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


class StochNorm(NamedTuple):
  """What `stochnorm` returns.

  Attributes:
    outputs: the normalized input, in its shape and dtype.
    mean: the moving mean `[channels]` after this batch.
    variance: the moving variance `[channels]` after this batch.

  References:
    Kou et al., `Stochastic normalization
    <https://proceedings.neurips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html>`_,
    2020.
  """

  outputs: Float[Array, "batch *positions channels"]
  mean: Float[Array, " channels"]
  variance: Float[Array, " channels"]


@validate
def stochnorm(
  features: Float[Array, "batch *positions channels"],
  mean: Float[Array, " channels"],
  variance: Float[Array, " channels"],
  scale: Float[Array, " channels"] | None = None,
  bias: Float[Array, " channels"] | None = None,
  *,
  key: Array | None,
  probability: ArrayLike = 0.5,
  momentum: ArrayLike = 0.1,
  eps: ArrayLike = 1e-5,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> StochNorm:
  r"""Stochastic normalization (StochNorm): each channel picks its statistics.

  .. math::
    y = \gamma \Bigl[ (1 - s) \frac{x - \tilde\mu}{\sqrt{\tilde v + \epsilon}}
      + s \frac{x - \mu}{\sqrt{v + \epsilon}} \Bigr] + \beta, \qquad
    s \sim \text{Bernoulli}(p)

  with the batch's own mean and variance where s = 1 and the moving ones, which
  were pretrained and which were not yet updated by this batch, where s = 0:
  a drop-in for batch normalization that regularizes fine-tuning.

  Args:
    features: `[batch, ..., channels]`.
    mean: the moving mean; no gradient.
    variance: the moving variance; no gradient.
    scale: gamma, 1 without it.
    bias: beta, 0 without it.
    key: picks the branch of each channel, the same one for all examples; over
      `axis_name`, give all devices the same key. None for evaluation: moving
      statistics everywhere, which stay as they are.
    probability: p in [0, 1]; 1 is batch normalization. May be traced.
    momentum: the share of the batch in the new moving statistics, as in
      PyTorch (Flax's momentum is 1 minus it). May be traced.
    eps: epsilon. May be traced.
    where: `[batch]`, which examples count; outputs of the others are 0.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A `StochNorm`. The moving variance takes in the batch's over n - 1,
    the normalization that over n, as in PyTorch. A batch where nothing counts
    leaves the moving statistics alone.

  Raises:
    ValueError: if shapes differ, or a static number is out of range.
    TypeError: if an array is not floating-point.

  Statistics are float32 for half-precision features. TLlib draws s on the
  host, from NumPy's global state; the published default of p is 0.5.

  Examples:
    >>> x = jnp.array([[1.0], [3.0]])
    >>> out = stochnorm(
    ...   x, jnp.zeros(1), jnp.ones(1), key=jax.random.key(0), probability=1.0
    ... )
    >>> print(f"{out.outputs[1, 0]:.3f} {out.mean[0]:.1f}")
    1.000 0.2

  References:
    Kou et al., `Stochastic normalization
    <https://proceedings.neurips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html>`_,
    2020.
  """
  check_positive("eps", eps)
  dtype = compute_dtype(features)
  x, mask = masked_rows(features, where)
  flat = x.reshape(x.shape[0], -1, x.shape[-1])
  epsilon = as_number("eps", eps, dtype)
  share = as_fraction("momentum", momentum, dtype)
  chance = as_fraction("probability", probability, dtype)
  moving = tuple(
    jax.lax.stop_gradient(s.astype(dtype)) for s in (mean, variance)
  )

  def normalized(center: Array, spread: Array) -> Array:
    return (flat - center) * jax.lax.rsqrt(spread + epsilon)

  def row(channels: Array) -> Array:
    return channels[None, None]

  outputs = normalized(row(moving[0]), row(moving[1]))
  new = moving
  if key is not None:
    count = flat.shape[1] * jnp.sum(mask)
    sums = jnp.sum(flat, (0, 1))
    count, sums = sum_over_devices((count, sums), axis_name)
    center = sums / jnp.maximum(count, 1)
    gaps = mask[:, None, None] * (flat - row(center))
    squares = jnp.sum(jnp.square(gaps), (0, 1))
    squares = sum_over_devices(squares, axis_name)
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
