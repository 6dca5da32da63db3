"""Model selection rules of DomainBed."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax import ops


class Selection(NamedTuple):
  """The chosen model: a run (a choice of hyper-parameters) and its checkpoint.

  Attributes:
    run: the index of the run.
    step: the index of the checkpoint.
    score: the value that the rule maximizes; -inf if no checkpoint exists.
  """

  run: Int[Array, ""]
  step: Int[Array, ""]
  score: Float[Array, ""]


@ops.validate
def training_domain_selection(
  accuracies: Float[Array, "runs steps domains"],
) -> Selection:
  r"""Training-domain validation: largest mean accuracy on training domains.

  .. math:: \operatorname*{argmax}_{r, s} \operatorname*{mean}_d a_{rsd}

  Args:
    accuracies: `[runs, steps, domains]`, on held-out parts of the training
      domains, without the target domain. NaN marks a checkpoint that does not
      exist.

  Returns:
    The selection; of equal scores, the first.

  Raises:
    ValueError: if `accuracies` does not have three axes.

  Report the target accuracy of the selected run and step. All domains have
  equal weight, for any size.

  Examples:
    >>> accuracies = jnp.array([[[0.5, 0.7], [0.5, 1.0]], [[0.9, 0.1]] * 2])
    >>> choice = training_domain_selection(accuracies)
    >>> print(choice.run, choice.step, choice.score)
    0 1 0.75

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021, section 3.
  """
  accuracies = accuracies.astype(ops.compute_dtype(accuracies))
  return _best(jnp.mean(accuracies, -1))


@ops.validate
def leave_one_domain_out_selection(
  accuracies: Float[Array, "runs steps domains"],
) -> Selection:
  r"""Leave-one-domain-out cross-validation: accuracy on held-out domains.

  .. math:: \operatorname*{argmax}_{r, s} \operatorname*{mean}_d a^{(-d)}_{rsd}

  Args:
    accuracies: `[runs, steps, domains]`, on training domain d, of a network
      trained without d and without the target, with the hyper-parameters of the
      run. NaN marks missing values; the rule ignores checkpoints with a missing
      domain.

  Returns:
    The selection; of equal scores, the first. Report the target accuracy of a
    network trained on all training domains with the hyper-parameters of the
    selected run, at the selected step.

  Raises:
    ValueError: if `accuracies` does not have three axes.

  The rule needs one training for each training domain. It assumes that the
  distances between training domains are similar to their distances from the
  target.

  Examples:
    >>> accuracies = jnp.array([[[0.5, 1.0]], [[0.9, jnp.nan]]])
    >>> choice = leave_one_domain_out_selection(accuracies)
    >>> print(choice.run, choice.step, choice.score)
    0 0 0.75

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021, section 3.
  """
  accuracies = accuracies.astype(ops.compute_dtype(accuracies))
  return _best(jnp.mean(accuracies, -1))


@ops.validate
def oracle_selection(accuracies: Float[Array, "runs steps"]) -> Selection:
  r"""Oracle selection: largest target accuracy of the last checkpoint.

  .. math:: \operatorname*{argmax}_r a_{r S}

  Args:
    accuracies: `[runs, steps]`, on a held-out part of the **target** domain.
      NaN marks a checkpoint that does not exist; the rule uses the last
      existing checkpoint of each run.

  Returns:
    The selection; of equal scores, the first.

  Raises:
    ValueError: if `accuracies` does not have two axes.

  The rule uses the last checkpoint only, because early stopping would use more
  information about the target. Report such results as an upper bound, not as an
  estimate.

  Examples:
    >>> choice = oracle_selection(jnp.array([[0.9, 0.5], [0.6, 0.7]]))
    >>> print(choice.run, choice.step, choice.score)
    1 1 0.7

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021, section 3.
  """
  accuracies = accuracies.astype(ops.compute_dtype(accuracies))
  steps = jnp.arange(accuracies.shape[1])[None]
  exists = ~jnp.isnan(accuracies)
  last = jnp.max(jnp.where(exists, steps, -1), 1, keepdims=True)
  return _best(jnp.where(steps == last, accuracies, jnp.nan))


def _best(scores: Float[Array, "runs steps"]) -> Selection:
  """Returns the selection with the largest score that is not NaN."""
  scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
  index = jnp.argmax(scores)
  run, step = jnp.unravel_index(index, scores.shape)
  return Selection(run, step, jnp.max(scores))
