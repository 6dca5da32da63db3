"""Sparse teachers: sampled classes, or the top classes of a cache."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax import ops


@ops.validate
def known_log_probs(
  values: Float[Array, "*tokens known"], rest: Float[Array, "*tokens"]
) -> Float[Array, "*tokens known"]:
  r"""Log-probabilities of known classes, from their logits and the rest.

  .. math::
    \log P_i = z_i - \log \Big(\sum_{j \in I} \exp(z_j) + \exp(r)\Big)

  The function converts the output of a `kdjax.data.TeacherCache` of the top
  classes to the input of `sparse_divergence`. The log-probabilities are valid
  at the temperature of r only. For another temperature T, cache a teacher that
  returns z / T.

  Args:
    values: the logits z of the known classes I, `[*tokens, known]`.
    rest: r, the log-sum-exp of all other logits, `[*tokens]`.

  Returns:
    Log-probabilities in the shape of `values`; float32 for half precision.

  Raises:
    ValueError: if the token axes differ.
    TypeError: if either is not floating-point.

  Examples:
    >>> known_log_probs(jnp.array([0.0, 0.0]), jnp.log(2.0))
    Array([-1.3862944, -1.3862944], dtype=float32)

  References:
    Anshumann et al., `Sparse logit sampling: accelerating knowledge
    distillation in LLMs <https://arxiv.org/abs/2503.16870>`_, 2025, which
    compares treatments of the unknown classes.
  """
  logits = jnp.concatenate([values, rest[..., None]], -1)
  return ops.log_softened_softmax(logits)[..., :-1]


@ops.exportable
class SampledTeacher(NamedTuple):
  """The sampled classes of each token, from `sample_teacher`.

  Attributes:
    ids: the sampled classes, `[*tokens, samples]`; a class may occur twice.
    log_probs: the log-probabilities of the sampled classes.
    weights: their importance weights, P / (num_samples * proposal).

  References:
    Anshumann et al., `Sparse logit sampling: accelerating knowledge
    distillation in LLMs <https://arxiv.org/abs/2503.16870>`_, 2025.
  """

  ids: Integer[Array, "*tokens samples"]
  log_probs: Float[Array, "*tokens samples"]
  weights: Float[Array, "*tokens samples"]


@ops.validate
def sample_teacher(
  key: Array,
  teacher_logits: Float[Array, "*tokens classes"],
  *,
  num_samples: int,
  temperature: ArrayLike = 1.0,
  proposal_power: ArrayLike = 1.0,
) -> SampledTeacher:
  r"""Random-sampling knowledge distillation: an unbiased sparse teacher.

  .. math::
    x_1, \ldots, x_n \sim \pi \propto P^t, \quad
    w_j = \frac{P_{x_j}}{n \, \pi_{x_j}}, \quad
    \mathrm{E} \sum_j w_j f(x_j) = \sum_i P_i f(i)

  With `sparse_divergence(logits, ids, log_probs, teacher_weights=weights,
  tail="drop")`, value and gradient are unbiased estimates of the forward KL
  over all classes. A teacher of the most probable classes alone is biased.

  Args:
    key: a PRNG key.
    teacher_logits: `[*tokens, classes]`.
    num_samples: n, drawn with replacement. The paper draws 50 and stores about
      12 distinct classes a token.
    temperature: T > 0; a number, or one a token.
    proposal_power: t >= 0; 1 samples from P, with equal weights; 0 samples
      uniformly.

  Returns:
    A `SampledTeacher`; the teacher receives no gradient.

  Raises:
    ValueError: if num_samples is not above 0, a static temperature is not above
      0, or a static power is below 0.
    TypeError: if the logits are not floating-point.

  The paper divides the weights by their sum, which biases the estimate; this
  function does not.

  Examples:
    >>> logits = jnp.array([0.0, 100.0, 0.0])
    >>> sample_teacher(jax.random.key(0), logits, num_samples=2)
    SampledTeacher(ids=Array([1, 1], dtype=int32),
                   log_probs=Array([0., 0.], dtype=float32),
                   weights=Array([0.5, 0.5], dtype=float32))

  References:
    Anshumann et al., `Sparse logit sampling: accelerating knowledge
    distillation in LLMs <https://arxiv.org/abs/2503.16870>`_, 2025.
  """
  ops.check_integer("num_samples", num_samples, 1)
  ops.check_range("proposal_power", proposal_power, 0.0, math.inf)
  *tokens, classes = teacher_logits.shape
  log_p = ops.log_softened_softmax(
    jax.lax.stop_gradient(teacher_logits), temperature=temperature
  )
  # Keep masked classes masked: 0 * -inf would be NaN at power 0.
  power = ops.as_number("proposal_power", proposal_power, log_p.dtype)
  powered = jnp.where(log_p == -jnp.inf, log_p, power * log_p)
  log_proposal = ops.log_softened_softmax(powered)
  reached = jnp.cumsum(ops.softened_softmax(powered), -1)
  draws = jax.random.uniform(key, (*tokens, num_samples), reached.dtype)
  total = reached[..., -1:]
  draws = jnp.minimum(draws * total, jnp.nextafter(total, 0.0))
  search = jnp.vectorize(
    lambda cumulated, x: jnp.searchsorted(cumulated, x, side="right"),
    signature="(c),(n)->(n)",
  )
  ids = jnp.minimum(search(reached, draws), classes - 1)
  chosen, proposed = (
    jnp.take_along_axis(x, ids, -1) for x in (log_p, log_proposal)
  )
  weights = jnp.exp(chosen - proposed) / num_samples
  # A row without classes gets weights 0.
  weights = jnp.where(chosen == -jnp.inf, 0.0, weights)
  return SampledTeacher(ids, chosen, weights)
