"""The divergences as their formulas, in NumPy's long double."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.fused import fused_divergence
from tests import oracles

# A student far from, near to and equal to its teacher, and what may be masked.
INF = np.inf
EXTREMES = {
  "classes at -inf on both sides": ([1, 2, -INF], [2, 1, -INF]),
  "ten thousand apart": ([1e4, -1e4, 0], [-1e4, 1e4, 0]),
  "ten thousand and equal": ([-1e4, 1e4, 0], [-1e4, 1e4, 0]),
  "no class at all": ([-INF] * 3, [-INF] * 3),
  "equal but for a constant": ([3, 3, 3], [7, 7, 7]),
  "close, with one class alone": ([0, -1e4, -1e4], [1e-3, -1e4, -1e4]),
  "the teacher excludes a class": ([0, 0, 1], [0, -INF, 0]),
  "disjoint": ([0, -INF, 0], [-INF, 0, -INF]),
}
SHARES = {"jsd": 0.3, "skew": 0.2, "skew_reverse": 0.2}
NAMES = [
  "forward_kl",
  "reverse_kl",
  "jsd",
  "skew",
  "skew_reverse",
  "total_variation",
]


def values_and_gradients(name, student, teacher, temperature):
  """Returns values, and gradients by both logits, a row each."""
  temperature = np.broadcast_to(temperature, student.shape[:1])[:, None]
  q = np.exp(oracles.log_softmax(student, temperature))
  p = np.exp(oracles.log_softmax(teacher, temperature))
  share = SHARES.get(name)
  log, ratio = np.log, np.divide
  if name == "forward_kl":
    values = oracles.kl_of_logits(student, teacher, temperature)
    by_q, by_p = -ratio(p, q), log(p / q)
  elif name == "reverse_kl":
    values = oracles.kl_of_logits(teacher, student, temperature)
    by_q, by_p = log(q / p), -ratio(q, p)
  elif name == "jsd":
    m = share * p + (1 - share) * q
    values = share * oracles.kl(p, m) + (1 - share) * oracles.kl(q, m)
    by_q, by_p = (1 - share) * log(q / m), share * log(p / m)
  elif name == "skew":
    m = share * p + (1 - share) * q
    values = oracles.kl(p, m)
    by_q, by_p = -(1 - share) * p / m, log(p / m) - share * p / m
  elif name == "skew_reverse":
    m = (1 - share) * p + share * q
    values = oracles.kl(q, m)
    by_q, by_p = log(q / m) - share * q / m, -(1 - share) * q / m
  else:
    values = np.abs(p - q).sum(-1) / 2
    by_q, by_p = np.sign(q - p) / 2, np.sign(p - q) / 2
  return values, *(
    x * (slope - (x * slope).sum(-1, keepdims=True)) / temperature
    for x, slope in ((q, by_q), (p, by_p))
  )


def make_logits(seed, rows, classes, gap, scale=3.0):
  rng = np.random.default_rng(seed)
  teacher = (scale * rng.normal(size=(rows, classes))).astype(np.float32)
  student = teacher + 2 + gap * rng.normal(size=teacher.shape)
  return student.astype(np.float32), teacher


def close(actual, expected, tolerance=1e-5):
  """Relative to each value, and to the largest entry of a gradient."""
  expected = np.asarray(expected, np.float64)
  atol = tolerance * np.max(np.abs(expected)) if expected.ndim > 1 else 1e-30
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=atol)


def rising_logits(rows, classes):
  """A pair for the kernels, and temperatures of the rows.

  The first ten rows rise to the end, so that each tile moves the sums; others
  are far apart, masked, without a class, or equal and large.
  """
  student, teacher = make_logits(0, rows, classes, 0.01)
  order = np.argsort(teacher, -1)
  student, teacher = (
    np.take_along_axis(x, order, -1) for x in (student, teacher)
  )
  student[10:] = make_logits(1, rows - 10, classes, 5.0)[0]
  teacher[15, 250:] = -np.inf
  student[15, 240:260] = -np.inf
  teacher[16, :200] = student[16, :200] = -np.inf
  teacher[17] = -np.inf
  student[18] = teacher[18] = 1e4
  return student, teacher, np.linspace(0.5, 4, rows, dtype=np.float32)


def equals_xla(implementation, student, teacher, temperature):
  """Asserts a kernel's values and gradients; returns the values."""

  @jax.jit
  def program(student, teacher):
    def total(student, implementation):
      values = fused_divergence(
        student,
        teacher,
        temperature=temperature,
        implementation=implementation,
      )
      return jnp.sum(jnp.where(jnp.isfinite(values), values, 0)), values

    return [
      jax.value_and_grad(total, has_aux=True)(student, name)
      for name in (implementation, "xla")
    ]

  ((_, values), gradient), ((_, expected), slope) = program(student, teacher)
  assert np.isinf(expected[15])
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-30)
  close(gradient, slope, 1e-5)
  return values
