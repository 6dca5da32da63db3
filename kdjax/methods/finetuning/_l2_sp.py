"""L2 penalty towards the starting point (L2-SP)."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import finetuning
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.finetuning._row_kinds import row


def _l2_sp(
  *,
  weight: ArrayLike = 0.01,
  head_weight: ArrayLike = 0.01,
  heads: Sequence[str] = ("head",),
) -> Objective:
  """L2-SP: parameters stay near those of the pretrained network.

  The `kdjax.finetuning.l2_sp` of the student's parameters, which a
  learner shows as `student_params`, and of the pretrained network's.

  Args:
    weight: alpha, of the parameters that were pretrained, kept in the state.
    head_weight: beta, of the new ones, kept in the state.
    heads: names in the paths of parameters that are new.

  Returns:
    An objective, beside the cross-entropy; its weights are 0.01 in TLlib, with
    no other weight decay.

  Raises:
    ValueError: from `apply`, if the pretrained network has other parameters.

  References:
    Li, Grandvalet and Davoine, `Explicit inductive bias for transfer learning
    with convolutional networks <https://arxiv.org/abs/1802.01483>`_, 2018.
  """

  def loss(
    student_params: Any,
    past_params: Any,
    *,
    weight: ArrayLike,
    head_weight: ArrayLike,
    axis_name: str | None = None,
  ) -> Array:
    del axis_name  # parameters are the same on all devices
    start = without(past_params, heads)
    return finetuning.l2_sp(
      student_params, start, alpha=weight, beta=head_weight
    )

  return stateless(loss, weight=weight, head_weight=head_weight)


def without(params: Any, names: Sequence[str]) -> Any:
  """Parameters, with None for those whose path has one of the names."""

  def keep(path: Any, leaf: Any) -> Any:
    parts = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return None if set(names) & set(parts) else leaf

  return jax.tree_util.tree_map_with_path(keep, params)


ROWS = {
  "l2_sp": row(
    "L2-SP",
    "the parameters stay near the pretrained ones",
    _l2_sp,
    weight=0.01,
    networks=("past",),
    source="TLlib",
  ),
}
