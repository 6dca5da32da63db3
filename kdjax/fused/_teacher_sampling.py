"""Some classes of a teacher: drawn at random, or the likeliest of a cache."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax.ops import check_integer
from kdjax.ops import check_range
from kdjax.ops import log_softened_softmax
from kdjax.ops import softened_softmax
from kdjax.ops import validate


@validate
def known_log_probs(
  values: Float[Array, "*tokens known"], rest: Float[Array, "*tokens"]
) -> Float[Array, "*tokens known"]:
  r"""Log-probabilities of the known classes, from logits and what is left.

  .. math::
    \log P_i = z_i - \log \Big(\sum_{j \in I} \exp(z_j) + \exp(r)\Big)

  They are what `sparse_divergence` takes, of what a
  `kdjax.data.TeacherCache` of the likeliest classes serves. They are those of
  all classes at the temperature at which r was summed, and of no other: a
  cache for temperature T is one of a teacher that returns z / T.

  Args:
    values: the logits z of the known classes I, `[*tokens, known]`.
    rest: r, the log-sum-exp of all other logits, `[*tokens]`.

  Returns:
    Log-probabilities in the shape of `values`; float32 for half precision.

  Raises:
    ValueError: if the shapes do not fit.
    TypeError: if either is not floating-point.

  Examples:
    >>> known_log_probs(jnp.array([0.0, 0.0]), jnp.log(2.0))
    Array([-1.3862944, -1.3862944], dtype=float32)

  References:
    Anshumann et al., `Sparse logit sampling: accelerating knowledge
    distillation in LLMs <https://arxiv.org/abs/2503.16870>`_, 2025, which
    compares what becomes of the rest.
  """
  logits = jnp.concatenate([values, rest[..., None]], -1)
  return log_softened_softmax(logits)[..., :-1]


class SampledTeacher(NamedTuple):
  """What `sample_teacher` knows of each token.

  Attributes:
    ids: the classes drawn, `[*tokens, samples]`; one may be there twice.
    log_probs: their log-probabilities.
    weights: their importance weights, probability / (proposal samples).

  References:
    Anshumann et al., `Sparse logit sampling: accelerating knowledge
    distillation in LLMs <https://arxiv.org/abs/2503.16870>`_, 2025.
  """

  ids: Integer[Array, "*tokens samples"]
  log_probs: Float[Array, "*tokens samples"]
  weights: Float[Array, "*tokens samples"]


@validate
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

  Feed it to `sparse_divergence(logits, ids, log_probs, teacher_weights=weights,
  tail="drop")`: value and gradient have the expectation of the forward KL of
  all classes, whose tail the most probable classes alone would leave out.

  Args:
    key: a PRNG key.
    teacher_logits: `[*tokens, classes]`.
    num_samples: n, drawn with replacement. The paper stores about 12 distinct
      classes a token of 50.
    temperature: T > 0; a number, or one a token.
    proposal_power: t >= 0; 1 draws from P, with equal weights, 0 evenly.

  Returns:
    A `SampledTeacher`, without gradient to the teacher.

  Raises:
    ValueError: if there is no sample, a static temperature is not above 0, or
      a static power is below 0.
    TypeError: if the logits are not floating-point.

  Differs from the paper: the weights are not divided by their sum, which would
  bias them.

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
  check_integer("num_samples", num_samples, 1)
  check_range("proposal_power", proposal_power, 0.0, math.inf)
  *tokens, classes = teacher_logits.shape
  log_p = log_softened_softmax(
    jax.lax.stop_gradient(teacher_logits), temperature=temperature
  )
  # A power of 0 keeps excluded classes excluded.
  powered = jnp.where(log_p == -jnp.inf, log_p, proposal_power * log_p)
  log_proposal = log_softened_softmax(powered)
  reached = jnp.cumsum(softened_softmax(powered), -1)
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
  # Without a class there is none to draw.
  weights = jnp.where(chosen == -jnp.inf, 0.0, weights)
  return SampledTeacher(ids, chosen, weights)
