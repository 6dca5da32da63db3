"""DomainBed's rules for choosing a model, and what each of them looks at."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.ops import compute_dtype
from kdjax.ops import validate


class Selection(NamedTuple):
  """The chosen model: a run (its hyper-parameters) and a checkpoint of it.

  Attributes:
    run: its index.
    step: the index of its checkpoint.
    score: what it was chosen by; -inf if nothing could be chosen.

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021.
  """

  run: Int[Array, ""]
  step: Int[Array, ""]
  score: Float[Array, ""]


@validate
def training_domain_selection(
  accuracies: Float[Array, "runs steps domains"],
) -> Selection:
  r"""Training-domain validation: the best mean over the domains seen.

  .. math:: \operatorname*{argmax}_{r, s} \operatorname*{mean}_d a_{rsd}

  Args:
    accuracies: `[runs, steps, domains]`, of the training domains' held-out
      parts; the target domain is not among them. NaN marks a checkpoint that
      does not exist.

  Returns:
    The choice; the first of equals.

  Raises:
    ValueError: if `accuracies` has not three axes.

  Its report is the target accuracy at that run and step. Each domain counts
  the same, whatever its size.

  Examples:
    >>> accuracies = jnp.array([[[0.5, 0.7], [0.5, 1.0]], [[0.9, 0.1]] * 2])
    >>> choice = training_domain_selection(accuracies)
    >>> print(choice.run, choice.step, choice.score)
    0 1 0.75

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021, section 3.
  """
  accuracies = accuracies.astype(compute_dtype(accuracies))
  return _best(jnp.mean(accuracies, -1))


@validate
def leave_one_domain_out_selection(
  accuracies: Float[Array, "runs steps domains"],
) -> Selection:
  r"""Leave-one-domain-out cross-validation: the best on domains held out.

  .. math:: \operatorname*{argmax}_{r, s} \operatorname*{mean}_d a^{(-d)}_{rsd}

  Args:
    accuracies: `[runs, steps, domains]`: on training domain d, of a network
      trained without d (and without the target) with the run's
      hyper-parameters, at that step. NaN marks what was not trained; a
      checkpoint counts only if no domain is missing.

  Returns:
    The choice; the first of equals. Its report is the target accuracy, at that
    step, of the network trained on all training domains with the run's
    hyper-parameters.

  Raises:
    ValueError: if `accuracies` has not three axes.

  It costs as many trainings as there are training domains, and assumes that
  these are as far apart as the target is from them.

  Examples:
    >>> accuracies = jnp.array([[[0.5, 1.0]], [[0.9, jnp.nan]]])
    >>> choice = leave_one_domain_out_selection(accuracies)
    >>> print(choice.run, choice.step, choice.score)
    0 0 0.75

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021, section 3.
  """
  accuracies = accuracies.astype(compute_dtype(accuracies))
  return _best(jnp.mean(accuracies, -1))


@validate
def oracle_selection(accuracies: Float[Array, "runs steps"]) -> Selection:
  r"""Oracle selection: the best last checkpoint on the target itself.

  .. math:: \operatorname*{argmax}_r a_{r S}

  Args:
    accuracies: `[runs, steps]`, of a held-out part of the **target** domain.
      NaN marks a checkpoint that does not exist; a run's last one that does is
      looked at.

  Returns:
    The choice; the first of equals.

  Raises:
    ValueError: if `accuracies` has not two axes.

  Only the last checkpoint: early stopping on the target would leak more of it.
  Results by this rule are an upper bound, no estimate; say so beside them.

  Examples:
    >>> choice = oracle_selection(jnp.array([[0.9, 0.5], [0.6, 0.7]]))
    >>> print(choice.run, choice.step, choice.score)
    1 1 0.7

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021, section 3.
  """
  accuracies = accuracies.astype(compute_dtype(accuracies))
  steps = jnp.arange(accuracies.shape[1])[None]
  exists = ~jnp.isnan(accuracies)
  last = jnp.max(jnp.where(exists, steps, -1), 1, keepdims=True)
  return _best(jnp.where(steps == last, accuracies, jnp.nan))


def _best(scores: Float[Array, "runs steps"]) -> Selection:
  """Returns the best that exists."""
  scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
  index = jnp.argmax(scores)
  run, step = jnp.unravel_index(index, scores.shape)
  return Selection(run, step, jnp.max(scores))
