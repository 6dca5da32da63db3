"""Methods that learn from the target's unlabelled examples.

For :func:`kdjax.training.adaptation_loss`: the source's outputs stand in the
student's place, the target's, with its views, in the teacher's.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.adaptation import FlexMatchState
from kdjax.adaptation import cdac_loss
from kdjax.adaptation import dst_loss
from kdjax.adaptation import fixmatch_loss
from kdjax.adaptation import flexmatch_init
from kdjax.adaptation import flexmatch_thresholds
from kdjax.adaptation import flexmatch_update
from kdjax.adaptation import mme_loss
from kdjax.adaptation import prototype_logits
from kdjax.adaptation import sigmoid_ramp_up
from kdjax.nets import Outputs
from kdjax.nets import layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Metrics
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import Schedule
from kdjax.objectives._objective import loss_metric
from kdjax.objectives._players import Game
from kdjax.objectives._players import embeddings_of
from kdjax.objectives._players import masks_of
from kdjax.objectives._players import width_of
from kdjax.objectives._stages import field_of
from kdjax.ops import cross_entropy
from kdjax.ops import gather_batch
from kdjax.ops import get_entry
from kdjax.ops import masked_mean
from kdjax.ops import reverse_gradient


def on_target(objective: Objective) -> Objective:
  """Objective of the target alone: of its outputs, its views, its batch.

  Args:
    objective: what it gets as the student's outputs are those on the target,
      with their `views`; as the teacher's, the teacher's on the target, or
      None; its batch is the target's.

  Returns:
    An objective for :func:`kdjax.training.adaptation_loss`.

  Examples:
    >>> from kdjax.adaptation import entropy_loss
    >>> from kdjax.objectives import stateless
    >>> entropy = on_target(
    ...   stateless(entropy_loss, lambda target, *_: (target.logits,))
    ... )
    >>> source = Outputs(jnp.eye(2), {}, None)
    >>> target = Outputs(jnp.zeros((1, 2)), {}, None)
    >>> batch = {"target": {"mask": jnp.array([True])}}
    >>> entropy.apply({}, {}, source, target, batch, jax.random.key(0))[0]
    Array(0.6931472, dtype=float32)

  References:
    The argument order of :mod:`kdjax.adaptation`.
  """

  def apply(
    params: Any, state: Any, source: Any, target: Any, batch: Any, key: Array
  ) -> tuple[Array, Any, Metrics]:
    del source
    teacher = (target.views or {}).get("teacher")
    batch = get_entry("on_target: batch", batch, "target")
    return objective.apply(params, state, target, teacher, batch, key)

  return objective._replace(apply=apply)


def flexmatch(
  num_examples: int,
  *,
  threshold: ArrayLike = 0.95,
  view: str = "strong",
  axis_name: str | None = None,
) -> Objective:
  """FlexMatch: pseudo-labels with a threshold for each class.

  The :func:`kdjax.adaptation.fixmatch_loss` of a strong view; which examples
  were confident, by their `"index"` in the target's batch, is its state.

  Args:
    num_examples: of the target; an index is below it.
    threshold: of a class that is learned well, kept in the state.
    view: the name of the strongly augmented view; the weak one is the batch.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: from `apply`, if there is no such view.

  References:
    Zhang et al., `FlexMatch: boosting semi-supervised learning with curriculum
    pseudo labeling <https://arxiv.org/abs/2110.08263>`_, 2021.
  """

  def init(key: Array, source: Any, target: Any) -> tuple[Any, Any]:
    del key, target
    seen = flexmatch_init(
      num_examples=num_examples, num_classes=source.logits.shape[-1]
    )
    return {}, {"seen": seen, "threshold": jnp.asarray(threshold, float)}

  def apply(
    params: Any, state: Any, source: Any, target: Any, batch: Any, key: Array
  ) -> tuple[Array, Any, Metrics]:
    del params, source, key
    batch = get_entry("flexmatch: batch", batch, "target")
    least = state["threshold"]
    seen = FlexMatchState(*state["seen"])
    losses = fixmatch_loss(
      _view(target, view).logits,
      target.logits,
      threshold=flexmatch_thresholds(target.logits, seen, threshold=least),
    )
    value = masked_mean(losses, batch["mask"], axis_name=axis_name)
    index = get_entry("flexmatch: the target's batch", batch, "index")
    rows = target.logits, index, batch["mask"]
    logits, index, mask = (gather_batch(x, axis_name) for x in rows)
    seen = flexmatch_update(logits, seen, index, threshold=least, where=mask)
    if axis_name is not None:
      # The same on all devices: this tells JAX so.
      seen = jax.tree.map(lambda x: jax.lax.pmax(x, axis_name), seen)
    return value, state | {"seen": seen}, loss_metric(value, batch)

  return Objective(init, apply)


def dst(
  *,
  hidden: Sequence[int] = (1024,),
  eta: ArrayLike = 2.0,
  threshold: ArrayLike = 0.7,
  scale: ArrayLike = 0.1,
  schedule: Schedule | None = None,
  view: str = "strong",
  axis_name: str | None = None,
) -> Objective:
  """Debiased self-training (DST): a head for pseudo-labels, one for the worst.

  Pseudo-labels of the student's own head, which never learns from them, train
  a second one on the strong view; a third, behind a gradient reversal, is
  right on the source and as wrong as it can be on the target
  (:func:`kdjax.adaptation.dst_loss`).

  Args:
    hidden: units of each added head's hidden layers; TLlib's have 2048.
    eta: of the worst head on the source, kept in the state.
    threshold: of the pseudo-labels, kept in the state.
    scale: of the reversed gradient, kept in the state; TLlib's rises to 0.1.
    schedule: a factor of it by the step; 1 without.
    view: the name of the strongly augmented view; the weak one is the batch.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy of the
    source.

  Raises:
    ValueError: if the student returns no embedding, or from `apply` if there
      is no such view.

  References:
    Chen et al., `Debiased self-training for semi-supervised learning
    <https://arxiv.org/abs/2202.07136>`_, 2022.
  """

  def build(source: Any, target: Any, rngs: nnx.Rngs) -> nnx.Module:
    del target
    widths = width_of(source), *hidden, source.logits.shape[-1]
    return Game(rngs, pseudo=widths, worst=widths)

  def loss(
    game: Any,
    source: Outputs,
    target: Outputs,
    batch: Any,
    *,
    eta: Array,
    threshold: Array,
    scale: Array,
  ) -> Array:
    masks = masks_of(batch)
    strong = field_of("student", _view(target, view), "embedding")
    taught = fixmatch_loss(
      game.pseudo(strong), target.logits, threshold=threshold
    )
    rivals = reverse_gradient(
      embeddings_of(source, target), game.turn(scale, schedule)
    )
    labelled, unlabelled = map(game.worst, rivals)
    worst = dst_loss(
      source.logits,
      labelled,
      target.logits,
      unlabelled,
      eta=eta,
      where_labeled=masks["where_source"],
      where_unlabeled=masks["where_target"],
      axis_name=axis_name,
    )
    where = masks["where_target"]
    return worst + masked_mean(taught, where, axis_name=axis_name)

  return modular(
    build,
    loss,
    axis_name=axis_name,
    eta=eta,
    threshold=threshold,
    scale=scale,
  )


def mme(
  *,
  weight: ArrayLike = 0.1,
  temperature: ArrayLike = 0.05,
  axis_name: str | None = None,
) -> Objective:
  """Minimax entropy (MME) of a classifier by prototypes.

  The cross-entropy of the labelled examples and the
  :func:`kdjax.adaptation.mme_loss` of the others, both of prototypes that take
  the place of the student's classifier and answer for it.

  Args:
    weight: of the entropy, kept in the state.
    temperature: of the prototypes' logits.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective which includes the task; its published weight is 1.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Saito et al., `Semi-supervised domain adaptation via minimax entropy
    <https://arxiv.org/abs/1904.06487>`_, 2019.
  """

  def loss(
    game: Any,
    source: Outputs,
    target: Outputs,
    batch: Any,
    *,
    weight: Array,
  ) -> Array:
    own, other = embeddings_of(source, target)
    labels = get_entry("mme: batch", batch, "label")
    task = cross_entropy(_classify(game, own, temperature), labels)
    entropy = mme_loss(other, _prototypes(game), temperature=temperature)
    where = batch["target"]["mask"]
    return masked_mean(
      task, batch["mask"], axis_name=axis_name
    ) + weight * masked_mean(entropy, where, axis_name=axis_name)

  return modular(
    _Prototypes,
    loss,
    predict=_by_prototypes(temperature),
    axis_name=axis_name,
    weight=weight,
  )


def cdac(
  *,
  weight: ArrayLike = 1.0,
  threshold: ArrayLike = 0.95,
  consistency: ArrayLike = 30.0,
  ramp_steps: ArrayLike = 1000.0,
  temperature: ArrayLike = 0.05,
  top: int = 5,
  views: tuple[str, str] = ("strong", "strong_2"),
  axis_name: str | None = None,
) -> Objective:
  """Cross-domain adaptive clustering (CDAC) of a classifier by prototypes.

  The cross-entropy of the labelled examples, the
  :func:`kdjax.adaptation.cdac_loss` behind a gradient reversal, pseudo-labels
  for the second strong view, and the squared difference of both strong views'
  probabilities.

  Args:
    weight: of the clustering, kept in the state.
    threshold: of the pseudo-labels, kept in the state.
    consistency: the weight of the difference, kept in the state.
    ramp_steps: over which that weight rises, kept in the state; 1,000 in Dassl,
      20,000 in the authors' script.
    temperature: of the prototypes' logits.
    top: how many of the largest features make two examples alike.
    views: the names of two strongly augmented views.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective which includes the task; its published weight is 1.

  Raises:
    ValueError: if the student returns no embedding, or from `apply` if a view
      is missing.

  References:
    Li et al., `Cross-domain adaptive clustering for semi-supervised domain
    adaptation <https://arxiv.org/abs/2104.09415>`_, 2021.
  """

  def loss(
    game: Any,
    source: Outputs,
    target: Outputs,
    batch: Any,
    *,
    weight: Array,
    threshold: Array,
    consistency: Array,
    ramp_steps: Array,
  ) -> Array:
    where = batch["target"]["mask"]
    own, weak = embeddings_of(source, target)
    strong, other = (
      field_of("student", _view(target, name), "embedding") for name in views
    )
    classify = functools.partial(_classify, game, temperature=temperature)

    def mean(values: Array) -> Array:
      return masked_mean(values, where, axis_name=axis_name)

    labels = get_entry("cdac: batch", batch, "label")
    task = cross_entropy(classify(own), labels)
    clustering = cdac_loss(
      weak,
      *(classify(reverse_gradient(x)) for x in (weak, strong)),
      top=top,
      where=where,
      axis_name=axis_name,
    )
    answers = classify(weak), classify(strong), classify(other)
    pseudo = fixmatch_loss(answers[2], answers[0], threshold=threshold)
    gap = jax.nn.softmax(answers[1]) - jax.nn.softmax(answers[2])
    ramp = game.turn(
      consistency, lambda step: sigmoid_ramp_up(step, length=ramp_steps)
    )
    return (
      masked_mean(task, batch["mask"], axis_name=axis_name)
      + weight * clustering
      + mean(pseudo)
      + ramp * mean(jnp.mean(gap**2, -1))
    )

  return modular(
    _Prototypes,
    loss,
    predict=_by_prototypes(temperature),
    axis_name=axis_name,
    weight=weight,
    threshold=threshold,
    consistency=consistency,
    ramp_steps=ramp_steps,
  )


class _Prototypes(Game):
  """A linear classifier without bias."""

  def __init__(self, source: Any, target: Any, rngs: nnx.Rngs):
    del target
    super().__init__(rngs)
    widths = width_of(source), source.logits.shape[-1]
    self.head = layers.linear(*widths, use_bias=False, rngs=rngs)


def _prototypes(game: Any) -> Array:
  return game.head.kernel[...].T


def _classify(game: Any, features: Array, temperature: ArrayLike) -> Array:
  return prototype_logits(features, _prototypes(game), temperature=temperature)


def _by_prototypes(temperature: ArrayLike) -> Any:
  """What a student whose classifier is the prototypes answers."""

  def predict(game: Any, student: Outputs, teacher: Any) -> Array:
    del teacher
    embedding = field_of("student", student, "embedding")
    return _classify(game, embedding, temperature)

  return predict


def _view(target: Outputs, name: str) -> Outputs:
  views = target.views or {}
  if name not in views:
    raise ValueError(
      f"the target has the views {sorted(views)}; expected {name!r} among "
      "them, from the views of adaptation_loss."
    )
  return views[name]
