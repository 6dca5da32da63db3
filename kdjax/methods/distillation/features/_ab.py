"""Activation boundaries (AB)."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import REPDISTILLER, row
from kdjax.methods.distillation.features._fitnet import Regressor
from kdjax.methods.distillation.features._preactivations import (
  connected,
  connectors_by,
  deeper_weigh_more,
)


def _ab(*, margin: ArrayLike = 1.0) -> Objective:
  r"""By `kdjax.distillation.ab_loss`, of all stages without the stem.

  .. math::
    \ell = \sum_{i=0}^{n-1} 2^{i - n + 1} \ell_i

  A student's map of another size or width goes through `fitnet`'s convolution
  and batch normalization, without ReLU.

  Departs from RepDistiller: there the student's batch statistics are fixed in
  this stage.
  """

  def connect(ours: Any, theirs: Any, rngs: nnx.Rngs) -> Any:
    if ours.shape == theirs.shape:
      return _Identity()
    return Regressor(ours.shape, theirs.shape, rngs=rngs)

  def loss(
    connectors: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    margin: ArrayLike,
  ) -> Array:
    stages = connected(connectors, student, teacher)
    return deeper_weigh_more(
      [
        distillation.ab_loss(ours, theirs, margin=margin)
        for ours, theirs in stages
      ]
    )

  build = connectors_by(connect)
  return modular(build, loss, margin=margin)


class _Identity(nnx.Module):
  """The connector of maps of one shape, which leaves them as they are."""

  def __call__(self, x: Array) -> Array:
    return x


ROWS = {
  "ab": row(
    "features",
    "Activation boundaries, Heo 2019",
    "matches which neurons are active, in a stage before training",
    None,
    initialization=_ab,
    initialization_epochs=30,
    source=REPDISTILLER,
  ),
}
