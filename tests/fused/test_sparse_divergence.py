"""Teachers of which some classes are known: every tail against its formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.fused import (
  Head,
  known_log_probs,
  sample_teacher,
  sparse_divergence,
  sparse_linear_divergence,
)
from kdjax.ops import kl_divergence
from tests import laws, oracles
from tests.fused import divergences

ROWS, CLASSES, KNOWN = 8, 12, 4
TEMPERATURE = 1.7
FORMS = [
  ("bucket", "none"),
  ("drop", "none"),
  ("drop", "teacher"),
  ("drop", "both"),
]


def make_mesh():
  """Tokens over two devices, classes over four."""
  return jax.make_mesh(
    (2, 4), ("data", "vocab"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )


def make_teacher(logits, known=KNOWN):
  """The most probable classes at the temperature."""
  log_p = oracles.log_softmax(logits, TEMPERATURE)
  ids = np.argsort(-log_p, -1)[:, :known].astype(np.int32)
  return ids, np.float32(np.take_along_axis(log_p, ids, -1))


def formula(tail, renormalize, student, ids, log_probs):
  """Value and gradient by the student's logits, row by row."""
  values, gradients = [], []
  known_p = np.exp(np.longdouble(log_probs))
  for z, known, log_p in zip(student, ids, known_p, strict=True):
    p = np.zeros(CLASSES, np.longdouble)
    p[known] = log_p
    inside = p > 0
    q = np.exp(oracles.log_softmax(z, TEMPERATURE))
    if renormalize != "none":
      p /= p.sum()
    mass = np.where(inside, q, 0).sum()
    if renormalize == "both":
      q = np.where(inside, q / mass, 0)
    value = (p[inside] * np.log(p[inside] / q[inside])).sum()
    gradient = p.sum() * q - p
    if tail == "bucket":
      rest_p, rest_q = 1 - p.sum(), q[~inside].sum()
      value += rest_p * np.log(rest_p / rest_q)
      gradient = np.where(inside, q - p, q * (1 - rest_p / rest_q))
    values.append(value)
    gradients.append(gradient / TEMPERATURE)
  return np.stack(values), np.stack(gradients)


@functools.cache
def compiled(tail, renormalize):
  """Whole and in chunks that overlap."""

  def program(student, ids, log_probs, weights):
    def weighted(student, **options):
      values = sparse_divergence(
        student,
        ids,
        log_probs,
        tail=tail,
        renormalize=renormalize,
        temperature=TEMPERATURE,
        **options,
      )
      return jnp.sum(weights * values), values

    return [
      jax.value_and_grad(functools.partial(weighted, **options), has_aux=True)(
        student
      )
      for options in ({"implementation": "xla"}, {"chunk_size": 3})
    ]

  return jax.jit(program)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.01, 1.0, 10.0])
@pytest.mark.parametrize(("tail", "renormalize"), FORMS)
def test_values_and_gradients_equal_their_formulas(tail, renormalize, gap):
  student, teacher = divergences.make_logits(4, ROWS, CLASSES, gap)
  ids, log_probs = make_teacher(teacher)
  weights = np.linspace(-1, 2, ROWS, dtype=np.float32)
  expected, slopes = formula(tail, renormalize, student, ids, log_probs)
  results = compiled(tail, renormalize)(student, ids, log_probs, weights)
  for (_, values), gradients in results:
    np.testing.assert_allclose(
      values, np.float64(expected), rtol=1e-4, atol=3e-7
    )
    divergences.close(gradients, weights[:, None] * slopes, 1e-4)


@pytest.mark.slow
def test_a_sure_student_has_a_tail_still():
  """The rest is summed itself: 1 less the known classes would be 0."""
  student = np.full((ROWS, CLASSES), -30.0, np.float32)
  teacher = np.zeros((ROWS, CLASSES), np.float32)
  ids, log_probs = make_teacher(teacher)
  np.put_along_axis(student, ids, 10.0, -1)
  expected, _ = formula("bucket", "none", student, ids, log_probs)
  ones = np.ones(ROWS, np.float32)
  (_, values), gradients = compiled("bucket", "none")(
    student, ids, log_probs, ones
  )[0]
  divergences.close(values, expected, 1e-5)
  assert np.all(np.isfinite(gradients))


@pytest.mark.slow
@pytest.mark.parametrize(("tail", "renormalize"), FORMS[1:])
def test_large_logits_keep_their_gaps(tail, renormalize):
  student, teacher = divergences.make_logits(4, ROWS, CLASSES, 1.0)
  student += 1e4
  ids, log_probs = make_teacher(teacher)
  expected, slopes = formula(tail, renormalize, student, ids, log_probs)
  (_, values), gradients = compiled(tail, renormalize)(
    student, ids, log_probs, np.ones(ROWS, np.float32)
  )[0]
  np.testing.assert_allclose(values, np.float64(expected), rtol=1e-5)
  divergences.close(gradients, slopes)


@pytest.mark.parametrize(("tail", "renormalize"), FORMS)
def test_rows_without_classes(tail, renormalize):
  """The student excludes all that the teacher allows; none is known; both."""
  student, teacher = divergences.make_logits(4, ROWS, CLASSES, 1.0)
  ids, log_probs = make_teacher(teacher)
  student[[0, 2]] = -np.inf
  log_probs[1:3] = -np.inf
  (_, values), gradients = compiled(tail, renormalize)(
    student, ids, log_probs, np.ones(ROWS, np.float32)
  )[0]
  assert values[0] == np.inf
  assert np.all(np.isfinite(values[3:]))
  assert np.all(np.isfinite(gradients))
  if tail == "drop":
    np.testing.assert_array_equal(values[1:3], 0)


@pytest.mark.slow
def test_all_classes_known_is_the_dense_divergence():
  student, teacher = divergences.make_logits(4, ROWS, CLASSES, 0.1)

  @jax.jit
  def program(student, teacher):
    ids = jnp.broadcast_to(jnp.arange(CLASSES)[::-1], teacher.shape)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(teacher), ids, -1)
    sparse = jax.value_and_grad(
      lambda s: jnp.sum(sparse_divergence(s, ids, log_p))
    )
    dense = jax.value_and_grad(lambda s: jnp.sum(kl_divergence(s, teacher)))
    return sparse(student), dense(student)

  laws._close(*program(student, teacher), 1e-4)


def test_the_bucket_is_a_lower_bound():
  student, teacher = divergences.make_logits(6, ROWS, CLASSES, 2.0)
  full = oracles.kl_of_logits(student, teacher, TEMPERATURE)
  ids, log_probs = make_teacher(teacher)
  ones = np.ones(ROWS, np.float32)
  (_, values), _ = compiled("bucket", "none")(student, ids, log_probs, ones)[0]
  assert np.all(np.asarray(values) < full)


def sparse(student, log_probs, ids, **hyper):
  return sparse_divergence(student, ids, log_probs, chunk_size=5, **hyper)


def make_case():
  student, teacher = divergences.make_logits(8, 16, CLASSES, 1.0)
  ids, log_probs = make_teacher(teacher)
  return laws.Case(sparse, (student, log_probs, ids), {"temperature": 2.0})


CASE = make_case()


@pytest.mark.parametrize(
  ("name", "law"),
  laws.pairs({"": CASE}, without=[laws.gradients_equal_finite_differences]),
)
def test_law(name, law):
  law(CASE)


@pytest.mark.slow
def test_from_hidden_states_it_is_the_same():
  """Whole, and with sharded classes: one device has nothing but padding."""
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(ROWS, 5)).astype(np.float32)
  bias = rng.normal(size=CLASSES + 4).astype(np.float32)
  bias[CLASSES:] = 100.0
  weight = rng.normal(size=(CLASSES + 4, 5)).astype(np.float32)
  head = Head(weight, bias, softcap=np.float32(4))
  teacher = make_teacher(rng.normal(size=(ROWS, CLASSES)))
  weights = rng.normal(size=(2, ROWS)).astype(np.float32)

  def fused(hidden, head, ids, log_probs, axis_name=None):
    return [
      sparse_linear_divergence(
        hidden,
        head,
        ids,
        log_probs,
        tail=tail,
        temperature=2.0,
        vocab_size=CLASSES,
        vocab_axis_name=axis_name,
        chunk_size=3,
      )
      for tail in ("bucket", "drop")
    ]

  def dense(hidden, head, ids, log_probs):
    logits = (hidden @ head.weight.T + head.bias[None])[:, :CLASSES]
    logits = head.softcap * jnp.tanh(logits / head.softcap)
    return [
      sparse_divergence(logits, ids, log_probs, tail=tail, temperature=2.0)
      for tail in ("bucket", "drop")
    ]

  tokens, by_vocab = P("data"), Head(P("vocab"), P("vocab"), None, P())
  sharded = jax.shard_map(
    functools.partial(fused, axis_name="vocab"),
    mesh=make_mesh(),
    in_specs=(tokens, by_vocab, tokens, tokens),
    out_specs=tokens,
  )

  @jax.jit
  def program(*arrays):
    def total(f, *arrays):
      return jnp.sum(weights * jnp.stack(f(*arrays, *teacher)))

    return [
      jax.value_and_grad(functools.partial(total, f), (0, 1))(*arrays)
      for f in (dense, fused, sharded)
    ]

  expected, *results = program(hidden, head)
  for result in results:
    laws._close(result, expected, 2e-5)


@pytest.mark.slow
def test_a_sharded_vocabulary_equals_one_device():
  """Every tail; masked classes, a device without any, classes known twice."""
  student, teacher = divergences.make_logits(4, ROWS, CLASSES, 1.0)
  student[1, 9:] = teacher[1, 9:] = -np.inf
  ids, log_probs = make_teacher(teacher)
  student[2, np.setdiff1d(np.arange(CLASSES), ids[2])[0]] = -np.inf
  student[3, ids[3, 0]] = -np.inf  # what the teacher allows
  weights = np.linspace(-1, 2, ROWS, dtype=np.float32)
  twice, shares = ids % 3, np.exp(log_probs[::-1])

  @functools.partial(
    jax.shard_map,
    mesh=make_mesh(),
    in_specs=(P("data", "vocab"), *[P("data")] * 4),
    out_specs=P("data"),
  )
  def sharded(student, ids, log_probs, twice, shares):
    forms = [(ids, None, *form) for form in FORMS]
    return [
      sparse_divergence(
        student,
        known,
        log_probs,
        teacher_weights=teacher_weights,
        tail=tail,
        renormalize=renormalize,
        temperature=TEMPERATURE,
        vocab_axis_name="vocab",
        chunk_size=3,
      )
      for known, teacher_weights, tail, renormalize in [
        *forms,
        (twice, shares, "drop", "none"),
      ]
    ]

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def program(student, *teacher):
    values = sharded(student, *teacher)
    totals = [jnp.sum(n * weights * v) for n, v in enumerate(values, 1)]
    return sum(totals), values

  (_, values), gradient = program(student, ids, log_probs, twice, shares)
  expected = 0.0
  for n, form in enumerate(FORMS):
    (_, whole), slopes = compiled(*form)(
      student, ids, log_probs, np.float32(n + 1) * weights
    )[0]
    assert np.sum(np.isinf(whole)) == 1
    np.testing.assert_allclose(values[n], whole, rtol=1e-5, atol=1e-6)
    expected += np.asarray(slopes)
  log_q = oracles.log_softmax(student, TEMPERATURE)
  terms = shares * (log_probs - np.take_along_axis(log_q, twice, -1))
  np.testing.assert_allclose(values[-1], np.sum(terms, -1), rtol=1e-5)
  slopes = np.sum(shares, -1, keepdims=True) * np.exp(log_q)
  np.subtract.at(slopes, (np.arange(ROWS)[:, None], twice), shares)
  slopes *= len(values) * weights[:, None] / TEMPERATURE
  divergences.close(gradient, expected + slopes, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_sampled_teachers_are_unbiased(power):
  """Value and gradient, over many draws, within their standard errors."""
  draws = 4000
  student, teacher = divergences.make_logits(2, 2, 6, 1.0, scale=2.0)

  def estimate(student, key):
    sample = sample_teacher(
      key, teacher, num_samples=3, temperature=2.0, proposal_power=power
    )
    values = sparse_divergence(
      student,
      sample.ids,
      sample.log_probs,
      teacher_weights=sample.weights,
      tail="drop",
      temperature=2.0,
    )
    return jnp.sum(values), values

  @jax.jit
  def program(student):
    keys = jax.random.split(jax.random.key(3), draws)
    (_, values), gradients = jax.vmap(
      jax.value_and_grad(estimate, has_aux=True), (None, 0)
    )(student, keys)
    return values, gradients

  expected, by_student, _ = divergences.values_and_gradients(
    "forward_kl", student, teacher, 2.0
  )
  for estimates, exact in zip(
    program(student), (expected, by_student), strict=True
  ):
    estimates = np.float64(estimates)
    error = np.std(estimates, 0) / np.sqrt(draws)
    assert np.all(np.abs(np.mean(estimates, 0) - exact) < 4.5 * error + 1e-6)


@pytest.mark.slow
def test_excluded_classes_are_never_drawn():
  some = jnp.array([-jnp.inf, 0.0, -jnp.inf, -9.0, -jnp.inf])
  logits = jnp.stack([some, jnp.full(5, -jnp.inf)])
  sample = jax.jit(
    lambda key: sample_teacher(key, logits, num_samples=500, proposal_power=0.0)
  )(jax.random.key(0))
  ids, counts = np.unique(sample.ids[0], return_counts=True)
  np.testing.assert_array_equal(ids, [1, 3])
  assert np.all(counts > 190)
  assert np.all(np.isfinite(sample.weights[0]))
  np.testing.assert_array_equal(sample.weights[1], 0)  # there is none


def test_a_proposal_has_no_negative_power():
  with pytest.raises(ValueError, match=r"proposal_power is -1; expected"):
    sample_teacher(
      jax.random.key(0), np.ones(3), num_samples=2, proposal_power=-1
    )


@pytest.mark.slow
def test_no_array_of_all_logits_is_kept():
  """Known classes cost what they are; the rest is a chunk's."""

  def temporary(tokens):
    program = jax.jit(
      lambda s, i, p: jnp.sum(sparse_divergence(s, i, p, chunk_size=8))
    )
    analysis = program.lower(
      jax.ShapeDtypeStruct((tokens, 2048), jnp.float32),
      jax.ShapeDtypeStruct((tokens, 4), jnp.int32),
      jax.ShapeDtypeStruct((tokens, 4), jnp.float32),
    )
    return analysis.compile().memory_analysis().temp_size_in_bytes

  small, large = temporary(32), temporary(256)
  assert large - small < 0.02 * 224 * 2048 * 4


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"tail": "ghost"}, r"tail is 'ghost'; expected one of"),
    ({"renormalize": "both"}, r"renormalize is 'both'; expected 'none'"),
    ({"teacher_weights": np.ones((2, 3))}, r"teacher_weights are given"),
    ({"teacher_ids": np.ones((2, 2), int)}, r"teacher_log_probs has shape"),
    ({"student_logits": np.ones((2, 2))}, r"has 3 known classes; expected 1"),
  ],
)
def test_errors_say_what_was_expected(options, words):
  arguments = {
    "student_logits": np.ones((2, 5)),
    "teacher_ids": np.zeros((2, 3), int),
    "teacher_log_probs": np.full((2, 3), -2.0),
  }
  with pytest.raises(ValueError, match=words):
    sparse_divergence(**(arguments | options))


def test_a_teacher_sharded_like_the_student_is_refused():
  sharded = jax.shard_map(
    functools.partial(sparse_divergence, vocab_axis_name="vocab"),
    mesh=make_mesh(),
    in_specs=P(None, "vocab"),
    out_specs=P(),
  )
  with pytest.raises(ValueError, match=r"teacher_ids varies over 'vocab'; e"):
    jax.eval_shape(
      sharded, np.ones((2, 8)), np.zeros((2, 4), int), np.zeros((2, 4))
    )


def test_a_vocabulary_beyond_the_head_is_refused():
  with pytest.raises(ValueError, match=r"vocab_size is 9; expected at most 7"):
    sparse_linear_divergence(
      np.ones((2, 3)),
      np.ones((7, 3)),
      np.zeros((2, 1), int),
      np.zeros((2, 1)),
      vocab_size=9,
    )


@pytest.mark.slow
def test_log_probs_from_logits_and_the_rest():
  logits = 3 * np.random.default_rng(0).normal(size=(5, 2, CLASSES))
  logits[0, :, 0] = 1e4
  logits[1, :, KNOWN:] -= 20
  logits[2, :, KNOWN:] = -np.inf
  logits[3, :, 1] = -np.inf
  logits = np.float32(logits)
  exact = oracles.log_softmax(logits)[..., :KNOWN]
  with np.errstate(divide="ignore"):
    rest = np.logaddexp.reduce(np.float64(logits[..., KNOWN:]), -1)
  known = jnp.asarray(logits[..., :KNOWN]), jnp.asarray(rest, jnp.float32)
  program = jax.jit(known_log_probs)
  np.testing.assert_allclose(program(*known), exact, rtol=1e-6, atol=1e-6)
  nothing = program(jnp.full((1, 2), -jnp.inf), jnp.full(1, -jnp.inf))
  assert np.isneginf(nothing).all()
  half = known_log_probs(known[0].astype(jnp.bfloat16), known[1])
  assert half.dtype == jnp.float32
