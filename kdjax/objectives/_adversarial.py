"""Adversaries of adaptation: discriminators and second classifiers.

They play against the features of a student that
:func:`kdjax.training.adaptation_loss` shows both domains: the source's outputs
stand in the student's place, the target's in the teacher's.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.adaptation import adda_loss
from kdjax.adaptation import cdan_map
from kdjax.adaptation import cdan_matrices
from kdjax.adaptation import cdan_weights
from kdjax.adaptation import classifier_discrepancy
from kdjax.adaptation import dann_loss
from kdjax.adaptation import jda_loss
from kdjax.adaptation import mdd_loss
from kdjax.adaptation import soft_h_divergence
from kdjax.nets import Outputs
from kdjax.nets import layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import Schedule
from kdjax.objectives._players import Game
from kdjax.objectives._players import embeddings_of
from kdjax.objectives._players import masks_of
from kdjax.objectives._players import width_of
from kdjax.objectives._stages import field_of
from kdjax.ops import cross_entropy
from kdjax.ops import get_entry
from kdjax.ops import masked_mean
from kdjax.ops import reverse_gradient
from kdjax.ops import sum_over_devices

_near_zero = functools.partial(layers.linear, deviation=0.01)


def dann(
  *,
  hidden: Sequence[int] = (1024, 1024),
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  scaling: str = "paper",
  axis_name: str | None = None,
) -> Objective:
  """Domain-adversarial training (DANN): features that hide their domain.

  The :func:`kdjax.adaptation.dann_loss` of a discriminator of the embeddings,
  behind a gradient reversal: the discriminator learns at full speed, whatever
  the scale.

  Args:
    hidden: units of the discriminator's hidden layers, which have ReLUs; the
      logit follows. TLlib's have batch normalization besides.
    scale: of the reversed gradient, kept in the state.
    schedule: a factor of it by the step, such as
      `training.reversal_schedule(total_steps)`; 1 without.
    scaling: of the loss.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy of the
    source.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016.
  """

  def build(source: Any, target: Any, rngs: nnx.Rngs) -> nnx.Module:
    del target
    return Game(rngs, discriminator=(width_of(source), *hidden, 1))

  def loss(
    game: Any, source: Outputs, target: Outputs, batch: Any, *, scale: Array
  ) -> Array:
    embeddings = embeddings_of(source, target)
    hidden_ones = reverse_gradient(embeddings, game.turn(scale, schedule))
    return dann_loss(
      *map(game.discriminator, hidden_ones),
      scaling=scaling,
      axis_name=axis_name,
      **masks_of(batch),
    )

  return modular(build, loss, axis_name=axis_name, scale=scale)


def cdan(
  *,
  hidden: Sequence[int] = (1024, 1024),
  entropy: bool = False,
  mapped: int | None = None,
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  scaling: str = "pooled",
  axis_name: str | None = None,
) -> Objective:
  """Conditional adversarial training (CDAN): embeddings times probabilities.

  As :func:`dann`, of the :func:`kdjax.adaptation.cdan_map`.

  Args:
    hidden: units of the discriminator's hidden layers.
    entropy: whether sure examples weigh more (CDAN+E), by
      :func:`kdjax.adaptation.cdan_weights`.
    mapped: the width of a randomised map, whose matrices are part of the
      state; without it the map is the outer product. The authors randomise
      from 4096 entries on, with 1024.
    scale: of the reversed gradient, kept in the state.
    schedule: a factor of it by the step; 1 without.
    scaling: of the loss; "pooled" is TLlib's.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy of the
    source.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Long et al., `Conditional adversarial domain adaptation
    <https://arxiv.org/abs/1705.10667>`_, 2018.
  """

  def build(source: Any, target: Any, rngs: nnx.Rngs) -> nnx.Module:
    del target
    dims, classes = width_of(source), source.logits.shape[-1]
    width = dims * classes if mapped is None else mapped
    game: Any = Game(rngs, discriminator=(width, *hidden, 1))
    if mapped is not None:
      matrices = cdan_matrices(rngs.params(), dims, classes, mapped=mapped)
      game.feature_matrix, game.class_matrix = map(nnx.Variable, matrices)
    return game

  def loss(
    game: Any, source: Outputs, target: Outputs, batch: Any, *, scale: Array
  ) -> Array:
    masks = masks_of(batch)
    matrices = None
    if mapped is not None:
      matrices = game.feature_matrix[...], game.class_matrix[...]
    turn = game.turn(scale, schedule)
    embeddings = embeddings_of(source, target)
    predicted = [jax.nn.softmax(x.logits) for x in (source, target)]
    # What is reversed is the map: the probabilities get no gradient anyway.
    maps = [
      reverse_gradient(cdan_map(*pair, matrices=matrices), turn)
      for pair in zip(embeddings, predicted, strict=True)
    ]
    weights: tuple[Array | None, Array | None] = None, None
    if entropy:
      weights = cdan_weights(*predicted, axis_name=axis_name, **masks)
    return dann_loss(
      *map(game.discriminator, maps),
      scaling=scaling,
      source_weights=weights[0],
      target_weights=weights[1],
      axis_name=axis_name,
      **masks,
    )

  return modular(build, loss, axis_name=axis_name, scale=scale)


def jda(
  *,
  hidden: Sequence[int] = (1024, 1024),
  weight: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  normalize: str = "all",
  axis_name: str | None = None,
) -> Objective:
  """Joint adaptation: the task and the H-divergence, as one objective.

  The :func:`kdjax.adaptation.jda_loss` of the source's cross-entropy and of
  :func:`kdjax.adaptation.soft_h_divergence`, whose discriminator raises the
  divergence that the student lowers.

  Args:
    hidden: units of the discriminator's hidden layers.
    weight: lambda, kept in the state.
    schedule: a factor of it by the step; 1 without.
    normalize: of the task, "all" or "labelled".
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective which includes the task.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Ben-David et al., `A theory of learning from different domains
    <https://doi.org/10.1007/s10994-009-5152-4>`_, 2010.
  """

  def build(source: Any, target: Any, rngs: nnx.Rngs) -> nnx.Module:
    del target
    return Game(rngs, discriminator=(width_of(source), *hidden, 1))

  def loss(
    game: Any, source: Outputs, target: Outputs, batch: Any, *, weight: Array
  ) -> Array:
    labels = get_entry("jda: batch", batch, "label")
    embeddings = embeddings_of(source, target)
    masks = masks_of(batch)
    # Reversed on both sides of the discriminator: once for it, twice for the
    # student, whose gradient is again that of the divergence.
    logits = map(game.discriminator, reverse_gradient(embeddings))
    divergence = soft_h_divergence(*logits, axis_name=axis_name, **masks)
    counted = jnp.sum(batch["target"]["mask"], dtype=divergence.dtype)
    counted = sum_over_devices(counted, axis_name)
    return jda_loss(
      cross_entropy(source.logits, labels),
      reverse_gradient(divergence),
      num_target=counted,
      weight=game.turn(weight, schedule),
      normalize=normalize,
      where=batch["mask"],
      axis_name=axis_name,
    )

  return modular(build, loss, axis_name=axis_name, weight=weight)


def adda(
  *,
  hidden: Sequence[int] = (1024, 1024),
  scaling: str = "paper",
  axis_name: str | None = None,
) -> Objective:
  """Adversarial discriminative adaptation (ADDA): the target passes for source.

  The discriminator tells the embeddings of the frozen teacher on the source
  from the student's on the target, by :func:`kdjax.adaptation.dann_loss`; the
  student minimises :func:`kdjax.adaptation.adda_loss`. Both take one step at a
  time. Teacher and student start as the network trained on the source; there is
  no task besides, and only the encoder should be trained.

  As the paper, by inverted labels; TLlib's script reverses a gradient, which is
  weak where the discriminator is sure.

  Args:
    hidden: units of the discriminator's hidden layers.
    scaling: of the discriminator's loss.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: if the student returns no embedding, or from `apply` if there
      is no teacher.

  References:
    Tzeng et al., `Adversarial discriminative domain adaptation
    <https://arxiv.org/abs/1702.05464>`_, 2017.
  """

  def build(source: Any, target: Any, rngs: nnx.Rngs) -> nnx.Module:
    del target
    return Game(rngs, discriminator=(width_of(source), *hidden, 1))

  def loss(game: Any, source: Outputs, target: Outputs, batch: Any) -> Array:
    frozen = (source.views or {}).get("teacher")
    if frozen is None:
      raise ValueError(
        "adda: the source has no view 'teacher'; expected adaptation_loss with "
        "a teacher."
      )
    theirs, ours = embeddings_of(frozen, target)
    logits = map(game.discriminator, jax.lax.stop_gradient((theirs, ours)))
    told = dann_loss(
      *logits, scaling=scaling, axis_name=axis_name, **masks_of(batch)
    )
    # To be fooled is no gradient to the discriminator: a copy stands in.
    graph, weights = nnx.split(game.discriminator)
    judge = nnx.merge(graph, jax.lax.stop_gradient(weights))
    fooled = adda_loss(judge(ours))
    return told + masked_mean(
      fooled, batch["target"]["mask"], axis_name=axis_name
    )

  return modular(build, loss, axis_name=axis_name)


def mcd(
  *,
  hidden: Sequence[int] = (),
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  axis_name: str | None = None,
) -> Objective:
  """Maximum classifier discrepancy (MCD): two classifiers that disagree.

  Both learn the source's labels and, on the target, to disagree as much as
  they can; the features, behind a gradient reversal, leave them no room. The
  authors alternate three steps; here one step does it, which
  :func:`kdjax.ops.reverse_gradient` makes possible. The trained student
  answers by the mean of both classifiers' logits.

  Args:
    hidden: units of each classifier's hidden layers.
    scale: of the reversed gradient, kept in the state.
    schedule: a factor of it by the step; 1 without.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective which includes the classifiers' cross-entropies. Its published
    weight is 1; the student's own classifier takes no part.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Saito et al., `Maximum classifier discrepancy for unsupervised domain
    adaptation <https://arxiv.org/abs/1712.02560>`_, 2018.
  """

  def build(source: Any, target: Any, rngs: nnx.Rngs) -> nnx.Module:
    del target
    widths = width_of(source), *hidden, source.logits.shape[-1]
    return Game(rngs, first=widths, second=widths)

  def loss(
    game: Any, source: Outputs, target: Outputs, batch: Any, *, scale: Array
  ) -> Array:
    labels = get_entry("mcd: batch", batch, "label")
    own, other = embeddings_of(source, target)
    other = reverse_gradient(other, game.turn(scale, schedule))
    heads = game.first, game.second
    first, second = (cross_entropy(head(own), labels) for head in heads)
    apart = classifier_discrepancy(
      *(jax.nn.softmax(head(other)) for head in heads)
    )
    return masked_mean(
      first + second, batch["mask"], axis_name=axis_name
    ) - masked_mean(apart, batch["target"]["mask"], axis_name=axis_name)

  def predict(game: Any, student: Outputs, teacher: Any) -> Array:
    del teacher
    embedding = field_of("student", student, "embedding")
    return (game.first(embedding) + game.second(embedding)) / 2

  return modular(build, loss, predict=predict, axis_name=axis_name, scale=scale)


def mdd(
  *,
  hidden: Sequence[int] = (1024,),
  margin: ArrayLike = 4.0,
  scale: ArrayLike = 0.1,
  schedule: Schedule | None = None,
  axis_name: str | None = None,
) -> Objective:
  """Margin disparity discrepancy (MDD): a classifier that turns on the first.

  The :func:`kdjax.adaptation.mdd_loss` of the student's own logits, which only
  choose classes, and of an adversarial classifier behind a gradient reversal,
  which starts near 0 (normal weights of deviation 0.01), as TLlib's does.

  Args:
    hidden: units of the adversarial classifier's hidden layers.
    margin: gamma, kept in the state.
    scale: of the reversed gradient, kept in the state; TLlib's rises to 0.1.
    schedule: a factor of it by the step; 1 without.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy of the
    source.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Zhang et al., `Bridging theory and algorithm for domain adaptation
    <https://arxiv.org/abs/1904.05801>`_, 2019.
  """

  def build(source: Any, target: Any, rngs: nnx.Rngs) -> nnx.Module:
    del target
    widths = width_of(source), *hidden, source.logits.shape[-1]
    return Game(rngs, layer=_near_zero, adversary=widths)

  def loss(
    game: Any,
    source: Outputs,
    target: Outputs,
    batch: Any,
    *,
    margin: Array,
    scale: Array,
  ) -> Array:
    embeddings = embeddings_of(source, target)
    hidden_ones = reverse_gradient(embeddings, game.turn(scale, schedule))
    theirs, there = map(game.adversary, hidden_ones)
    return mdd_loss(
      source.logits,
      theirs,
      target.logits,
      there,
      margin=margin,
      axis_name=axis_name,
      **masks_of(batch),
    )

  return modular(build, loss, axis_name=axis_name, margin=margin, scale=scale)
