"""Regressive domain adaptation (RegDA) for keypoints."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.exportable
class KeypointMaps(NamedTuple):
  """Pseudo heat maps of predicted keypoints.

  Attributes:
    true: `[batch, height, width, keypoints]`, a Gaussian of height 1 around
      the largest score of each keypoint.
    false: of the same shape, the sum of `true` over all other keypoints,
      clipped at 1.
  """

  true: Float[Array, "batch height width keypoints"]
  false: Float[Array, "batch height width keypoints"]


@ops.validate
def keypoint_maps(
  heatmaps: Float[Array, "batch height width keypoints"],
  *,
  sigma: ArrayLike = 2.0,
) -> KeypointMaps:
  r"""Pseudo heat maps (RegDA): of a keypoint, and of all other keypoints.

  .. math::
    H_k(x) = \exp\Bigl(-\frac{\lVert x - x_k \rVert^2}{2 \sigma^2}\Bigr), \quad
    x_k = \operatorname*{argmax}_x y_k(x), \quad
    \bar H_k = \min\Bigl(\sum_{l \ne k} H_l, 1\Bigr)

  with H cut off at 3 sigma in height or width. Wrong predictions of a keypoint
  are usually at other keypoints, so the map of all other keypoints describes
  the likely errors. The method has a main and an adversarial regressor; the
  gradient from the adversarial regressor to the features is scaled by a ramp
  from 0 to 0.1. A step has three losses:

  - source, all parameters: `keypoint_loss` of the main regressor with the
    labels plus 4 times that of the adversarial regressor with `true`;
  - target, adversarial regressor: its `keypoint_loss` with `false`;
  - target, features: `keypoint_loss` of the adversarial regressor with `true`.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    heatmaps: `[batch, height, width, keypoints]`, the scores of the main
      regressor. They get no gradient.
    sigma: the width of the Gaussian, in pixels of the map. May be traced.

  Returns:
    `KeypointMaps`.

  Raises:
    ValueError: if a static `sigma` is not above 0.

  TLlib's main script puts a keypoint without a positive score into the corner.
  TLlib's faster script does not, as here, but cuts H off where it is below 0.01
  (a circle of radius 3.03 sigma).

  Examples:
    >>> heatmaps = jnp.zeros((1, 1, 3, 2)).at[0, 0, [0, 2], [0, 1]].set(1.0)
    >>> maps = keypoint_maps(heatmaps, sigma=0.5)
    >>> maps.true[0, 0].T
    Array([[1.        , 0.13533528, 0.        ],
           [0.        , 0.13533528, 1.        ]], dtype=float32)
    >>> bool(jnp.all(maps.false[..., 0] == maps.true[..., 1]))
    True

  References:
    Jiang et al., `Regressive domain adaptation for unsupervised keypoint
    detection <https://arxiv.org/abs/2103.06175>`_, 2021.
  """
  ops.check_positive("sigma", sigma)
  batch, height, width, keypoints = heatmaps.shape
  dtype = ops.compute_dtype(heatmaps)
  sigma = ops.as_number("sigma", sigma, dtype)
  place = jnp.argmax(heatmaps.reshape(batch, height * width, keypoints), 1)

  def along(size: int, centers: Array) -> Array:
    """Returns a Gaussian on one axis, `[batch, size, keypoints]`."""
    offsets = jnp.arange(size)[None, :, None] - centers[:, None]
    offsets = offsets.astype(dtype) / sigma
    bell = jnp.exp(-jnp.square(offsets) / 2)
    return jnp.where(jnp.abs(offsets) <= 3, bell, 0.0)

  rows, columns = along(height, place // width), along(width, place % width)
  true = rows[:, :, None] * columns[:, None]
  true = jnp.where(
    jnp.any(jnp.isnan(heatmaps), (1, 2), keepdims=True), jnp.nan, true
  )
  false = jnp.clip(jnp.sum(true, -1, keepdims=True) - true, 0.0, 1.0)
  return KeypointMaps(true, false)


@ops.validate
def keypoint_loss(
  heatmaps: Float[Array, "batch height width keypoints"],
  targets: Float[Array, "batch height width keypoints"],
  *,
  epsilon: ArrayLike = 0.0,
  visible: Bool[Array, "batch keypoints"] | None = None,
) -> Float[Array, " batch"]:
  r"""Keypoint loss (RegDA): KL divergence between heat maps.

  .. math::
    \ell = \operatorname*{mean}_k \mathrm{KL}\Bigl(
      \frac{t_k + \epsilon}{\sum_x (t_k(x) + \epsilon)} \Big\Vert
      \operatorname*{softmax}_x y_k \Bigr)

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    heatmaps: `[batch, height, width, keypoints]`, scores y.
    targets: of the same shape, not negative, not normalized: labels, or maps of
      `keypoint_maps`. They get no gradient.
    epsilon: >= 0. May be traced. TLlib: 0 for labels and 1e-7 for pseudo heat
      maps.
    visible: `[batch, keypoints]`, mask of the visible keypoints. The term of an
      invisible keypoint is 0, and the mean includes it, as published.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch, see
    `keypoint_maps`. A target of 0 everywhere has loss 0 if epsilon is 0; in
    TLlib it is NaN.

  Raises:
    ValueError: if the shapes differ or a static `epsilon` is below 0.
    TypeError: if the scores are not floating-point.

  On the target, TLlib's script also passes the visible keypoints, which belong
  to the target labels.

  Examples:
    >>> target = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1.0)
    >>> keypoint_loss(jnp.zeros((1, 2, 2, 1)), target)  # log 4
    Array([1.3862944], dtype=float32)

  References:
    Jiang et al., `Regressive domain adaptation for unsupervised keypoint
    detection <https://arxiv.org/abs/2103.06175>`_, 2021.
  """
  ops.check_range("epsilon", epsilon, 0.0, float("inf"))
  dtype = jnp.result_type(
    ops.compute_dtype(heatmaps), ops.compute_dtype(targets)
  )

  def flat(maps: Array) -> Array:
    """Returns `[batch, keypoints, positions]`."""
    batch, height, width, keypoints = maps.shape
    maps = maps.astype(dtype).reshape(batch, height * width, keypoints)
    return jnp.swapaxes(maps, 1, 2)

  epsilon = ops.as_number("epsilon", epsilon, dtype)
  targets = jnp.log(flat(jax.lax.stop_gradient(targets)) + epsilon)
  losses = ops.forward_kl(targets, flat(heatmaps), 1.0)
  if visible is not None:
    losses = jnp.where(visible, losses, 0.0)
  return jnp.mean(losses, -1)
