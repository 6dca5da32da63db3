"""Adversarial and direct entropy minimization (ADVENT, MinEnt)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def self_information(
  logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch classes"]:
  r"""Weighted self-information maps (ADVENT): entropy of each pixel and class.

  .. math:: I_c = -\frac{p_c \log p_c}{\log C}

  A discriminator of patches classifies the domain of these maps. The
  segmentation network learns target maps that the discriminator classifies as
  source::

    def maps_of(predictions):
      return discriminate(self_information(predictions)).reshape(-1)

    # Loss of the discriminator; the predictions get no gradient from it.
    dann_loss(maps_of(source), maps_of(target), scaling="mean")
    # Loss of the segmentation network: 0.001 times its mean.
    adda_loss(maps_of(target))

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    logits: `[batch, height, width, classes]`, or any other axes before the
      classes. A class at -inf is masked; C includes it.

  Returns:
    Maps of the same shape, in [0, 1 / (e log C)]; their sum over classes is in
    [0, 1]. Published weight: 0.001 for the adversarial loss of the
    segmentation, 0.0002 for an auxiliary head.

  Raises:
    ValueError: if there are fewer than two classes.
    TypeError: if the logits are not floating-point.

  The authors' code adds 1e-30 inside the logarithm, which changes no digit.
  Their discriminator has label 0 for the source, TLlib's has label 1.

  Examples:
    >>> print(self_information(jnp.array([[0.0, 0.0], [4.0, 0.0]])).round(3))
    [[0.5   0.5  ]
     [0.026 0.104]]

  References:
    Vu et al., `ADVENT: adversarial entropy minimization for domain adaptation
    in semantic segmentation <https://arxiv.org/abs/1811.12833>`_, 2019.
  """
  classes = logits.shape[-1]
  if classes < 2:
    raise ValueError(
      f"logits has {classes} class; expected at least 2 classes."
    )
  log_probabilities = ops.log_softened_softmax(logits)
  excluded = log_probabilities == -jnp.inf
  information = jnp.where(excluded, 0.0, -log_probabilities)
  return jnp.exp(log_probabilities) * information / math.log(classes)


@ops.validate
def minent_loss(
  target_logits: Float[Array, "batch height width classes"],
) -> Float[Array, " batch"]:
  r"""Direct entropy minimization for segmentation (MinEnt, of ADVENT).

  .. math::
    \ell = \operatorname*{mean}_{hw} \frac{-\sum_c p_{hwc} \log p_{hwc}}{\log C}

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    target_logits: `[batch, height, width, classes]`, resized to the size of the
      image, as published. A class at -inf is masked; C includes it.

  Returns:
    One value an example, in [0, 1]. Published weight: 0.001 times the mean over
    the batch, 0.0002 for an auxiliary head.

  Raises:
    ValueError: if there are fewer than two classes.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> minent_loss(jnp.zeros((1, 2, 2, 4)))
    Array([1.], dtype=float32)

  References:
    Vu et al., `ADVENT: adversarial entropy minimization for domain adaptation
    in semantic segmentation <https://arxiv.org/abs/1811.12833>`_, 2019.
  """
  return jnp.mean(jnp.sum(self_information(target_logits), -1), (1, 2))
