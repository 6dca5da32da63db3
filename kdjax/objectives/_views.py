"""Methods that compare several views of an image."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation import crld_loss
from kdjax.distillation import cskd_loss
from kdjax.distillation import mlld_loss
from kdjax.distillation import sskd_pretext_loss
from kdjax.distillation import sskd_similarity_loss
from kdjax.distillation import sskd_transformed_loss
from kdjax.nets import Outputs
from kdjax.nets import layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import combine
from kdjax.objectives._objective import stateless
from kdjax.objectives._stages import field_of
from kdjax.ops import cross_entropy
from kdjax.ops import get_entry


def crld(
  *,
  view: str = "strong",
  axis_name: str | None = None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Cross-view consistency distillation (CRLD) of two views.

  The :func:`kdjax.distillation.crld_loss`, and the cross-entropy of the strong
  view, which the authors add to that of the weak one.

  Args:
    view: the name of the strongly augmented view; the weak one is the batch.
    axis_name: the mapped axis that holds the rest of the batch.
    **hyperparameters: of the loss.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: from `apply`, if there is no such view.

  References:
    Zhang et al., `Cross-view consistency regularisation for knowledge
    distillation <https://arxiv.org/abs/2412.16493>`_, 2024.
  """
  return _two_views(crld_loss, view, axis_name=axis_name, **hyperparameters)


def mlld(
  *,
  weight: ArrayLike = 0.9,
  strong_labels: ArrayLike = 0.1,
  view: str = "strong",
  axis_name: str | None = None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Multi-level logit distillation (MLLD) of a weak and a strong view.

  The :func:`kdjax.distillation.mlld_loss` of both views, and the cross-entropy
  of the strong one, which the labels reach by no other way.

  Args:
    weight: of the three levels.
    strong_labels: the weight of the strong view's cross-entropy.
    view: the name of the strongly augmented view; the weak one is the batch.
    axis_name: the mapped axis that holds the rest of the batch.
    **hyperparameters: of the loss.

  Returns:
    An objective; its published weight is 1, beside 0.1 times the cross-entropy
    of the weak view.

  Raises:
    ValueError: from `apply`, if there is no such view.

  References:
    Jin, Wang and Lin, `Multi-level logit distillation
    <https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html>`_,
    2023, and its `code
    <https://github.com/Jin-Ying/Multi-Level-Logit-Distillation>`_.
  """
  return _two_views(
    mlld_loss,
    view,
    weight=weight,
    strong_labels=strong_labels,
    axis_name=axis_name,
    **hyperparameters,
  )


def cskd(
  *,
  temperature: ArrayLike = 4.0,
  view: str = "partner",
  axis_name: str | None = None,
) -> Objective:
  """Class-wise self-distillation (CS-KD) from another image of the class.

  The :func:`kdjax.distillation.cskd_loss`; it needs no teacher.

  Args:
    temperature: of the softened softmax.
    view: the name of the view that holds, for each image of the batch, another
      one of the same class.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: from `apply`, if there is no such view.

  References:
    Yun et al., `Regularizing class-wise predictions via self-knowledge
    distillation <https://arxiv.org/abs/2003.13964>`_, 2020.
  """

  def select(student: Outputs, teacher: Any, batch: Any) -> tuple[Array, Array]:
    del teacher, batch
    return student.logits, _view_of("student", student, view).logits

  return stateless(
    cskd_loss, select, axis_name=axis_name, temperature=temperature
  )


def sskd(
  *,
  temperature: ArrayLike = 4.0,
  ratio: ArrayLike = 1.0,
  transformed_weight: ArrayLike = 2.7,
  similarity_temperature: ArrayLike = 0.5,
  similarity_ratio: ArrayLike = 0.75,
  similarity_weight: ArrayLike = 10.0,
  views: tuple[str, ...] = ("rotated_1", "rotated_2", "rotated_3"),
  axis_name: str | None = None,
) -> Objective:
  r"""Self-supervised knowledge distillation (SSKD) of rotated images.

  .. math::
    \ell = w_t \, \ell_\mathrm{transformed} + w_s \, \ell_\mathrm{similarity}
           + \ell_\mathrm{pretext}

  of :func:`kdjax.distillation.sskd_transformed_loss`,
  :func:`~kdjax.distillation.sskd_similarity_loss` and
  :func:`~kdjax.distillation.sskd_pretext_loss`. Similarities are those of
  embeddings behind a projection head of two layers for each network. The
  pretext task trains the teacher's head, and nothing else.

  Args:
    temperature: of the soft targets of transformed images.
    ratio: the share of images that the teacher gets wrong, but kept.
    transformed_weight: of the soft targets of transformed images.
    similarity_temperature: of the similarities.
    similarity_ratio: the share of images whose original the teacher does not
      find, but kept.
    similarity_weight: of the similarities.
    views: the names of the transformed views.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective of weight 1, beside 0.1 times the cross-entropy and 0.9 times
    KD, as published.

  Raises:
    ValueError: from `apply`, if a view or an embedding is missing.

  Differs from the authors' code, which trains the teacher's head for 60 epochs
  beforehand; here it learns beside the student, in one stage.

  References:
    Xu et al., `Knowledge distillation meets self-supervision
    <https://arxiv.org/abs/2006.07114>`_, 2020; code xuguodong03/SSKD.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Dict(
      {
        role: _projection_head(field_of(role, x, "embedding").shape[-1], rngs)
        for role, x in (("student", student), ("teacher", teacher))
      }
    )

  def loss(
    heads: Any,
    student: Outputs,
    teacher: Outputs,
    batch: Any,
    *,
    temperature: ArrayLike,
    ratio: ArrayLike,
    transformed_weight: ArrayLike,
    similarity_temperature: ArrayLike,
    similarity_ratio: ArrayLike,
    similarity_weight: ArrayLike,
  ) -> Array:
    coupling: dict[str, Any] = {
      "where": batch["mask"],
      "axis_name": axis_name,
    }
    ours = [student, *(_view_of("student", student, v) for v in views)]
    theirs = [teacher, *(_view_of("teacher", teacher, v) for v in views)]
    taught = jnp.stack([field_of("teacher", x, "embedding") for x in theirs], 1)
    # The pretext task shapes the head, never the teacher.
    taught = heads["teacher"](jax.lax.stop_gradient(taught))
    transformed = sskd_transformed_loss(
      jnp.stack([x.logits for x in ours[1:]], 1),
      jnp.stack([x.logits for x in theirs[1:]], 1),
      get_entry("sskd: batch", batch, "label"),
      temperature=temperature,
      ratio=ratio,
      **coupling,
    )
    similarity = sskd_similarity_loss(
      heads["student"](
        jnp.stack([field_of("student", x, "embedding") for x in ours], 1)
      ),
      taught,
      temperature=similarity_temperature,
      ratio=similarity_ratio,
      **coupling,
    )
    pretext = sskd_pretext_loss(taught, **coupling)
    return (
      pretext
      + transformed_weight * transformed
      + similarity_weight * similarity
    )

  return modular(
    build,
    loss,
    axis_name=axis_name,
    temperature=temperature,
    ratio=ratio,
    transformed_weight=transformed_weight,
    similarity_temperature=similarity_temperature,
    similarity_ratio=similarity_ratio,
    similarity_weight=similarity_weight,
  )


def _two_views(
  loss: Any,
  view: str,
  *,
  weight: ArrayLike = 1.0,
  strong_labels: ArrayLike = 1.0,
  axis_name: str | None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """A loss of the logits of both views, and the other view's cross-entropy."""

  def select(
    student: Outputs, teacher: Outputs, batch: Any
  ) -> tuple[Array, ...]:
    del batch
    seen = (
      _view_of(role, outputs, view).logits
      for role, outputs in (("student", student), ("teacher", teacher))
    )
    return student.logits, teacher.logits, *seen

  def select_labels(
    student: Outputs, teacher: Outputs, batch: Any
  ) -> tuple[Array, Array]:
    del teacher
    labels = get_entry("crld or mlld: batch", batch, "label")
    return _view_of("student", student, view).logits, labels

  across = stateless(loss, select, axis_name=axis_name, **hyperparameters)
  labels = stateless(cross_entropy, select_labels, axis_name=axis_name)
  return combine({"views": (weight, across), "ce": (strong_labels, labels)})


def _view_of(role: str, outputs: Outputs, name: str) -> Outputs:
  views = outputs.views or {}
  if name not in views:
    raise ValueError(
      f"{role} has the views {sorted(views)}; expected one called {name!r}."
    )
  return views[name]


def _projection_head(width: int, rngs: nnx.Rngs) -> nnx.Module:
  return nnx.Sequential(
    layers.linear(width, width, rngs=rngs),
    nnx.relu,
    layers.linear(width, width, rngs=rngs),
  )
