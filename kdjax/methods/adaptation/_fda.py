"""Fourier domain adaptation (FDA) of a batch."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import transforms
from kdjax.methods._method import Method
from kdjax.methods.adaptation._row_kinds import row


def _fda(
  *, beta: ArrayLike = 0.01, half_width: ArrayLike | None = None
) -> Method:
  """By `kdjax.transforms.fourier_domain_adaptation`, within each batch.

  The amplitudes of a source image are those of the target image at its place
  in the batch, so both parts are of one size.
  """

  def prepare(key: Array, batch: Any, run: Any, *, on: str = "image") -> Any:
    del key, run
    images = [batch[k][on].astype(jnp.float32) for k in ("source", "target")]
    moved = transforms.fourier_domain_adaptation(
      *images, beta=beta, half_width=half_width
    )
    return {**batch, "source": {**batch["source"], on: moved}}

  return Method(prepare=prepare)


ROWS = {
  "fda": row(
    "FDA",
    "source images take the target's low frequencies",
    _fda,
    tuned="",
    source="paper",
  )
}
