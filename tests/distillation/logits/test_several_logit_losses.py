"""Every loss on logits: oracle, limits, extremes and transformations."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from kdjax import distillation
from tests import laws, oracles

RNG = np.random.default_rng(0)
STUDENT = (3 * RNG.normal(size=(16, 6))).astype(np.float32)
TEACHER = (3 * RNG.normal(size=(16, 6))).astype(np.float32)
LABELS = RNG.integers(0, 6, 16)


def probabilities(temperature):
  return (
    np.exp(oracles.log_softmax(TEACHER, temperature)),
    np.exp(oracles.log_softmax(STUDENT, temperature)),
  )


def oracle_jsd(beta=0.5, temperature=1.0):
  p, q = probabilities(temperature)
  if beta in (0, 1):
    return oracles.kl(p, q) if beta == 0 else oracles.kl(q, p)
  m = beta * p + (1 - beta) * q
  return beta * oracles.kl(p, m) + (1 - beta) * oracles.kl(q, m)


def oracle_skew(skew=0.1, temperature=1.0):
  p, q = probabilities(temperature)
  return oracles.kl(p, skew * p + (1 - skew) * q)


def oracle_skew_reverse(skew=0.1, temperature=1.0):
  p, q = probabilities(temperature)
  return oracles.kl(q, (1 - skew) * p + skew * q)


def oracle_symmetric(reverse_weight=0.5, temperature=1.0):
  p, q = probabilities(temperature)
  return (1 - reverse_weight) * oracles.kl(p, q) + reverse_weight * oracles.kl(
    q, p
  )


def oracle_soft_target(temperature=4.0):
  return temperature**2 * oracles.kl(*probabilities(temperature))


def oracle_kd(temperature=4.0, alpha=0.9):
  hard = oracles.cross_entropy(STUDENT, LABELS)
  return alpha * oracle_soft_target(temperature) + (1 - alpha) * hard


def oracle_mse():
  return np.square(np.float64(STUDENT) - TEACHER).mean(-1)


def oracle_reverse(temperature=1.0):
  p, q = probabilities(temperature)
  return oracles.kl(q, p)


def oracle_total_variation(temperature=1.0):
  p, q = probabilities(temperature)
  return np.abs(p - q).sum(-1) / 2


def oracle_binary():
  p, _ = probabilities(1.0)
  z = np.longdouble(STUDENT)
  no, yes = np.log1p(np.exp(z)), np.log1p(np.exp(-z))
  return (p * yes + (1 - p) * no).mean(-1)


# name: (oracle, keywords, the keyword that a sweep would trace)
LOSSES = {
  "soft_target_loss": (oracle_soft_target, {"temperature": 2.5}),
  "kd_loss": (oracle_kd, {"temperature": 2.5, "alpha": 0.3}),
  "logit_mse_loss": (oracle_mse, {}),
  "binary_kl_loss": (oracle_binary, {}),
  "reverse_kl_loss": (oracle_reverse, {"temperature": 2.5}),
  "symmetric_kl_loss": (oracle_symmetric, {"reverse_weight": 0.2}),
  "generalized_jsd_loss": (oracle_jsd, {"beta": 0.3, "temperature": 2.5}),
  "skew_kl_loss": (oracle_skew, {"skew": 0.4, "temperature": 2.5}),
  "skew_reverse_kl_loss": (oracle_skew_reverse, {"skew": 0.4}),
  "total_variation_loss": (oracle_total_variation, {"temperature": 2.5}),
}


@functools.cache
def loss(name):
  """The loss as a function of (student, teacher), with labels bound."""
  function = getattr(distillation, name)
  if name == "kd_loss":
    return lambda s, t, labels=LABELS, **kw: function(s, t, labels, **kw)
  return function


TRACES = collections.Counter()


@functools.cache
def program(name):
  """Compiled: values with default, constant and traced keywords."""
  _, keywords = LOSSES[name]

  @jax.jit
  def values(student, teacher, traced):
    TRACES[name] += 1
    return [loss(name)(student, teacher, **k) for k in ({}, keywords, traced)]

  return values


each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
def test_equals_the_oracle_and_traced_keywords_do_not_recompile(name):
  oracle, keywords = LOSSES[name]
  default, constant, traced = program(name)(STUDENT, TEACHER, keywords)
  np.testing.assert_allclose(traced, constant, rtol=2e-6, atol=1e-7)
  halved = {k: 0.5 * v for k, v in keywords.items()}
  *_, other = program(name)(STUDENT, TEACHER, halved)
  for value, kw in (
    (default, {}),
    (constant, keywords),
    (traced, keywords),
    (other, halved),
  ):
    np.testing.assert_allclose(value, np.float64(oracle(**kw)), rtol=1e-5)
  assert TRACES[name] == 1


@functools.cache
def differentials(name):
  """Compiled: value, slope along ones, and gradients, of three classes.

  By the student, by the teacher, and by a teacher who is not stopped.
  """

  @jax.jit
  def program(student, teacher):
    labels = {"labels": np.array([0, 1, 2, 0, 1])} if name == "kd_loss" else {}

    def values(student, teacher, **options):
      return loss(name)(student, teacher, **labels, **options)

    def total(student, teacher, **options):
      return jnp.sum(values(student, teacher, **options))

    ones = jnp.ones_like(student)
    return (
      *jax.jvp(lambda s: values(s, teacher), (student,), (ones,)),
      *jax.grad(total, (0, 1))(student, teacher),
      jax.grad(total, 1)(student, teacher, stop_teacher_gradient=False),
    )

  return program


@pytest.mark.slow
@each_loss
def test_the_teacher_gets_no_gradient_unless_asked(name):
  *_, stopped, by_teacher = differentials(name)(
    STUDENT[:5, :3], TEACHER[:5, :3]
  )
  np.testing.assert_array_equal(stopped, 0)
  assert np.max(np.abs(by_teacher)) > 0.01


@each_loss
def test_extremes_are_finite(name):
  rows = np.float32(
    [
      [1e4, -1e4, 0.0],
      [-1e4, 1e4, 0.0],
      [0.0, 0.0, 0.0],
      [1.0, -np.inf, 2.0],
      [3.0, 3.0, 3.0],
    ]
  )
  values, slope, gradient, *_ = differentials(name)(rows, rows[[1, 1, 2, 3, 0]])
  for leaf in (values, slope, gradient):
    assert np.all(np.isfinite(leaf))


@each_loss
def test_nan_reaches_the_caller(name):
  _, keywords = LOSSES[name]
  for student, teacher in ((STUDENT, TEACHER), (TEACHER, STUDENT)):
    bad = student.copy()
    bad[0] = np.nan
    for arguments in ((bad, teacher), (teacher, bad)):
      for values in program(name)(*arguments, keywords):
        assert np.isnan(values[0])


def test_a_weight_of_zero_silences_an_infinite_term():
  masked = STUDENT.copy()
  masked[:, 2] = -np.inf
  only = np.full(16, 2)

  @jax.jit
  def values(student, teacher, masked):
    return (
      distillation.kd_loss(masked, masked, only, alpha=1.0),
      distillation.kd_loss(masked, teacher, LABELS * 0, alpha=0.0),
      distillation.symmetric_kl_loss(student, masked, reverse_weight=0.0),
    )

  soft, hard, forward = values(STUDENT, TEACHER, masked)
  np.testing.assert_array_equal(soft, 0)
  assert np.all(np.isfinite(hard))
  assert np.all(np.isfinite(forward))


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_the_gradient_in_skew_is_finite_under_masks(mode):
  masked = STUDENT.copy()
  masked[:, 2] = -np.inf
  jacobian = jax.jacfwd if mode == "fwd" else jax.jacrev
  gradient = jax.jit(
    jacobian(
      lambda x: jnp.sum(distillation.skew_kl_loss(masked, TEACHER, skew=x))
    )
  )(0.1)
  assert np.isfinite(gradient)


@each_loss
def test_bfloat16_is_computed_in_float32(name):
  value = laws.computed_in_float32(loss(name), STUDENT, TEACHER)
  assert value.dtype == jnp.float32


@pytest.mark.slow
@each_loss
def test_leading_axes_and_vmap_equal_a_loop(name):
  arguments = [STUDENT, TEACHER] + ([LABELS] if name == "kd_loss" else [])
  function = getattr(distillation, name)

  @jax.jit
  def both(*arguments):
    halves = [x.reshape(2, 8, *x.shape[1:]) for x in arguments]
    return jax.vmap(function)(*arguments), function(*halves).ravel()

  expected, *_ = program(name)(STUDENT, TEACHER, LOSSES[name][1])
  mapped, shaped = both(*arguments)
  np.testing.assert_allclose(mapped, expected, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(shaped, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_eight_devices_equal_one():
  """All losses in one program, under shard_map and under pmap."""

  def every_loss(student, teacher, labels):
    values = [
      loss(name)(student, teacher, **extra)
      for name in LOSSES
      for extra in [{"labels": labels} if name == "kd_loss" else {}]
    ]
    return jnp.stack(values, -1)

  arguments = (STUDENT, TEACHER, LABELS)
  expected = np.stack(
    [program(k)(STUDENT, TEACHER, v)[0] for k, (_, v) in LOSSES.items()], -1
  )
  mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
  data = PartitionSpec("data")
  sharded = jax.jit(
    jax.shard_map(every_loss, mesh=mesh, in_specs=(data,) * 3, out_specs=data)
  )(*arguments)
  np.testing.assert_allclose(sharded, expected, rtol=1e-6, atol=1e-7)
  mapped = jax.pmap(every_loss)(
    *(x.reshape(8, 2, *x.shape[1:]) for x in arguments)
  )
  np.testing.assert_allclose(
    mapped.reshape(expected.shape), expected, rtol=1e-6, atol=1e-7
  )


@each_loss
def test_shapes_never_broadcast(name):
  with pytest.raises(ValueError, match=r"teacher_logits has shape \(1, 6\)"):
    loss(name)(STUDENT, TEACHER[:1])


def test_soft_labels_equal_integer_labels():
  one_hot = np.eye(6, dtype=np.float32)[LABELS]
  soft, hard = jax.jit(
    lambda *labels: [distillation.kd_loss(STUDENT, TEACHER, y) for y in labels]
  )(one_hot, LABELS)
  np.testing.assert_allclose(soft, hard, rtol=1e-6)


def test_the_gradient_of_kd_is_the_papers():
  """(1/T) T^2 (q^S - q^T) for the soft part, q - y for the hard one."""
  p, q = probabilities(4.0)
  _, q1 = probabilities(1.0)
  expected = 0.9 * 4.0 * (q - p) + 0.1 * (q1 - np.eye(6)[LABELS])
  actual = jax.jit(
    jax.grad(lambda s: jnp.sum(distillation.kd_loss(s, TEACHER, LABELS)))
  )(STUDENT)
  np.testing.assert_allclose(actual, np.float64(expected), atol=1e-6)


def test_a_high_temperature_matches_centred_logits():
  """Hinton's limit: T^2 KL tends to |z^S - z^T|^2 / (2 C), centred."""
  center = lambda z: z - z.mean(-1, keepdims=True)  # noqa: E731
  expected = np.square(center(STUDENT) - center(TEACHER)).sum(-1) / 12
  *_, actual = program("soft_target_loss")(
    STUDENT, TEACHER, {"temperature": 1e4}
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-3)


def test_one_temperature_an_example():
  arguments = STUDENT, TEACHER, LABELS, np.linspace(1, 5, 16, dtype=np.float32)
  loss = jax.jit(
    lambda s, t, y, u: distillation.kd_loss(s, t, y, temperature=u)
  )
  expected = [loss(*row) for row in zip(*arguments, strict=True)]
  np.testing.assert_allclose(loss(*arguments), expected, rtol=1e-5)


@pytest.mark.slow
def test_named_ends_of_the_families():
  @jax.jit
  def pairs(*logits):
    forward = distillation.soft_target_loss(*logits, temperature=1.0)
    reverse = distillation.reverse_kl_loss(*logits)
    return (
      (distillation.generalized_jsd_loss(*logits, beta=0.0), forward),
      (distillation.generalized_jsd_loss(*logits, beta=1.0), reverse),
      (distillation.skew_kl_loss(*logits, skew=0.0), forward),
      (distillation.skew_reverse_kl_loss(*logits, skew=0.0), reverse),
      (distillation.skew_kl_loss(*logits, skew=1.0), 0 * forward),
    )

  for actual, expected in pairs(STUDENT, TEACHER):
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  ("name", "keywords", "message"),
  [
    ("kd_loss", {"alpha": 1.5}, r"alpha is 1.5; expected a number in \[0"),
    ("kd_loss", {"temperature": -1}, r"temperature is -1; expected a finite"),
    ("generalized_jsd_loss", {"beta": 2.0}, "beta is 2.0"),
    ("skew_kl_loss", {"skew": -0.1}, "skew is -0.1"),
    ("symmetric_kl_loss", {"reverse_weight": 3}, "reverse_weight is 3"),
    ("kd_loss", {"alpha": np.array(2.0)}, "alpha is 2.0"),
    ("kd_loss", {"alpha": np.ones(3)}, r"alpha has shape \(3,\)"),
    ("skew_kl_loss", {"skew": np.full((4, 1), 0.5)}, r"skew has shape"),
    ("soft_target_loss", {"temperature": np.array(-1.0)}, "temperature is -1"),
  ],
)
def test_static_values_out_of_range(name, keywords, message):
  with pytest.raises(ValueError, match=message):
    laws.trace(loss(name), STUDENT, TEACHER, **keywords)


def test_labels_may_be_unsigned():
  unsigned, signed = jax.jit(
    lambda *labels: [distillation.kd_loss(STUDENT, TEACHER, y) for y in labels]
  )(LABELS.astype(np.uint8), LABELS)
  np.testing.assert_array_equal(unsigned, signed)


def test_labels_of_the_wrong_shape():
  with pytest.raises(ValueError, match=r"kd_loss: labels has shape \(3,\)"):
    distillation.kd_loss(STUDENT, TEACHER, LABELS[:3])


def test_a_label_without_alternatives_costs_nothing():
  """All other classes are masked: value 0, gradient 0."""
  logits = np.float32([[2.0, -np.inf, -np.inf]])
  value, gradient = jax.jit(
    jax.value_and_grad(
      lambda z: distillation.kd_loss(z, logits, np.array([0])).sum()
    )
  )(logits)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)
