"""Fourier domain adaptation (FDA) of a batch."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from kdjax import transforms


def fda_batch(*, on: str = "image", **options: Any) -> Callable[..., Any]:
  """FDA's batch: source images with the target's low frequencies.

  Args:
    on: the entry that holds the images.
    **options: of `kdjax.transforms.fourier_domain_adaptation`.

  Returns:
    `prepare` for `kdjax.training.adapt`: the amplitudes of each source
    image are those of the target image at the same place of the batch, which
    has as many.

  References:
    Yang and Soatto, `FDA: Fourier domain adaptation for semantic segmentation
    <https://arxiv.org/abs/2004.05498>`_, 2020.
  """

  def prepare(key: Array, batch: Any, run: Any) -> Any:
    del key, run
    images = [batch[k][on].astype(jnp.float32) for k in ("source", "target")]
    images = transforms.fourier_domain_adaptation(*images, **options)
    return {**batch, "source": {**batch["source"], on: images}}

  return prepare
