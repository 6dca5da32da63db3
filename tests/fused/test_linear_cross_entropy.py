"""Cross-entropy from hidden states, alone and beside a divergence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.fused import (
  Divergence,
  Head,
  fused_linear_divergence,
  linear_cross_entropy,
  linear_distillation,
)
from kdjax.language import next_token_targets
from kdjax.ops import cross_entropy, kl_divergence, masked_mean
from tests import laws

TOKENS, WIDTH, TEACHER_WIDTH, VOCAB = 13, 6, 8, 20
WHERE = np.arange(TOKENS) % 4 != 1
RNG = np.random.default_rng(0)


def make(*shape):
  return RNG.normal(size=shape).astype(np.float32)


# The student's vocabulary is padded, its head has everything.
STUDENT_HEAD = Head(
  make(VOCAB + 3, WIDTH), make(VOCAB + 3), np.float32(1.3), np.float32(5.0)
)
ARRAYS = (
  make(TOKENS, WIDTH),
  STUDENT_HEAD,
  make(TOKENS, TEACHER_WIDTH),
  Head(make(VOCAB, TEACHER_WIDTH)),
)
LABELS = RNG.integers(0, VOCAB, TOKENS)
# What is masked may have any label.
IGNORED = np.where(WHERE, LABELS, -100)
EVEN = np.full(TOKENS, 0.1, np.float32)
UNEVEN = make(TOKENS)


def logits_of(hidden, head):
  weight, bias, scale, softcap = head
  logits = hidden @ weight.T
  if bias is not None:
    logits = softcap * jnp.tanh(scale * (logits + bias[None]) / softcap)
  return logits[:, :VOCAB]


def dense(student, student_head, teacher, teacher_head):
  logits = logits_of(student, student_head)
  return (
    kl_divergence(logits, logits_of(teacher, teacher_head), temperature=2.0),
    cross_entropy(logits, jnp.asarray(LABELS)),
  )


@functools.cache
def compiled(chunk_size):
  """Values and gradients of a weighted sum of both; None for the dense form."""

  def total(arrays, factors, first, second):
    if chunk_size is None:
      values = dense(*arrays)
      values = [f * v for f, v in zip(factors, values, strict=True)]
    else:
      values = linear_distillation(
        *arrays,
        IGNORED,
        temperature=2.0,
        divergence_weight=factors[0],
        cross_entropy_weight=factors[1],
        where=WHERE,
        chunk_size=chunk_size,
        stop_teacher_gradient=False,
      )
    divergence, hard = (jnp.where(WHERE, x, 0.0) for x in values)
    return jnp.sum(first * divergence + second * hard), (divergence, hard)

  return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize(
  "cotangents",
  [(EVEN, EVEN), (EVEN, 3 * EVEN), (UNEVEN, UNEVEN[::-1].copy())],
  ids=["inside", "outside", "any"],
)
@pytest.mark.parametrize("chunk_size", [5, TOKENS])
def test_both_losses_equal_the_dense_forms_in_all_gradients(
  chunk_size, cotangents
):
  factors = np.array([3.0, 0.25], np.float32)
  laws._close(
    compiled(chunk_size)(ARRAYS, factors, *cotangents),
    compiled(None)(ARRAYS, factors, *cotangents),
    2e-5,
  )


@pytest.mark.slow
def test_cross_entropy_alone_equals_the_dense_form():
  spoilt = np.where(WHERE[:, None], ARRAYS[0], np.float32(np.nan))

  def total(loss):
    def sum_of(hidden, head):
      return jnp.sum(jnp.where(WHERE, UNEVEN * loss(hidden, head), 0.0))

    return jax.value_and_grad(sum_of, (0, 1))

  ours = total(
    lambda hidden, head: linear_cross_entropy(
      hidden, head, IGNORED, where=WHERE, vocab_size=VOCAB, chunk_size=5
    )
  )
  plain = total(
    lambda hidden, head: cross_entropy(
      logits_of(hidden, head), jnp.asarray(LABELS)
    )
  )
  results = jax.jit(
    lambda spoilt, hidden, head: (ours(spoilt, head), plain(hidden, head))
  )(spoilt, *ARRAYS[:2])
  laws._close(*results, 2e-5)
  np.testing.assert_array_equal(np.asarray(results[0][1][0])[~WHERE], 0)


@pytest.mark.slow
def test_a_certain_label_keeps_its_digits():
  """A likelihood of 1 - 1e-9 has the loss 1e-9, and one of 1e-30 is finite."""
  scale = np.float32(np.log(1e9))
  hidden = scale * np.eye(2, dtype=np.float32)
  labels = np.array([0, 0, 1])
  rows = np.stack([hidden[0], -3 * hidden[0], hidden[1]])
  head = np.eye(2, dtype=np.float32)
  value, gradient = jax.jit(
    jax.value_and_grad(
      lambda x: jnp.sum(linear_cross_entropy(x, head, labels)), has_aux=False
    )
  )(rows)
  np.testing.assert_allclose(value, 3 * scale, rtol=1e-6)
  np.testing.assert_allclose(
    gradient[::2], [[-1e-9, 1e-9], [1e-9, -1e-9]], rtol=1e-5
  )
  np.testing.assert_allclose(
    linear_cross_entropy(rows[:1], head, labels[:1]), [1e-9], rtol=1e-5
  )


def test_a_label_out_of_range_is_nan_without_a_gradient():
  labels = np.array([VOCAB, 3])

  def total(hidden):
    values = linear_cross_entropy(hidden, ARRAYS[3], labels)
    return jnp.sum(jnp.where(jnp.isnan(values), 0.0, values)), values

  gradient, values = jax.jit(jax.grad(total, has_aux=True))(ARRAYS[2][:2])
  np.testing.assert_array_equal(np.isnan(values), [True, False])
  np.testing.assert_array_equal(gradient[0], 0)
  assert np.any(np.asarray(gradient[1]) != 0)


def test_a_padded_batch_accumulates_to_the_mean_over_its_tokens():
  """With the shift in its one place, sums over parts are those of the whole."""
  tokens = RNG.integers(0, VOCAB, (2, 6))
  attention = np.arange(6) < np.array([[6], [3]])
  labels, where = next_token_targets(tokens, attention_mask=attention)
  hidden, head = make(2, 6, TEACHER_WIDTH), ARRAYS[3]

  @jax.jit
  def program(hidden):
    values = linear_cross_entropy(hidden, head, labels, where=where)
    alone = linear_cross_entropy(
      hidden[1, :2], head, jnp.asarray(tokens)[1, 1:3]
    )
    return values, masked_mean(values, where), alone

  values, mean, alone = program(hidden)
  np.testing.assert_allclose(values[1, :2], alone, rtol=1e-6)
  np.testing.assert_allclose(mean, np.sum(values) / 7, rtol=1e-6)


@pytest.mark.slow
def test_weights_of_tokens_and_other_divergences():
  weights = np.abs(UNEVEN)

  @jax.jit
  def program(arrays):
    def ours(arrays):
      values = linear_distillation(
        *arrays,
        LABELS,
        divergence=Divergence("jsd", 0.3),
        weights=weights,
        chunk_size=5,
      )
      return sum(map(jnp.sum, values))

    def apart(arrays):
      divergence = fused_linear_divergence(
        *arrays, divergence=Divergence("jsd", 0.3), weights=weights
      )
      hard = linear_cross_entropy(
        *arrays[:2], LABELS, weights=weights, vocab_size=VOCAB
      )
      return jnp.sum(divergence) + jnp.sum(hard)

    return jax.value_and_grad(ours)(arrays), jax.value_and_grad(apart)(arrays)

  laws._close(*program(ARRAYS), 2e-5)


@pytest.mark.slow
def test_the_gradient_of_a_weight_that_is_learned():
  """A second derivative, through the products that are usually left out."""

  def slope(loss):
    def along(weights):
      def total(arrays):
        values = loss(*arrays)
        return jnp.sum(weights[0] * values[0] + weights[1] * values[1])

      gradients = jax.grad(total)(ARRAYS[:2])
      return sum(jnp.sum(x) for x in jax.tree.leaves(gradients))

    return jax.grad(along)(jnp.zeros((2, TOKENS)))

  def ours(hidden, head):
    return linear_distillation(
      hidden, head, *ARRAYS[2:], LABELS, temperature=2.0, chunk_size=5
    )

  def plain(hidden, head):
    return dense(hidden, head, *ARRAYS[2:])

  laws._close(*jax.jit(lambda: (slope(ours), slope(plain)))(), 2e-5)


@pytest.mark.slow
def test_bfloat16_states_are_within_half_a_percent():
  arrays = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), ARRAYS)

  @jax.jit
  def program(arrays):
    def total(arrays):
      values = linear_distillation(*arrays, LABELS, chunk_size=5)
      return jnp.sum(values[0] + values[1])

    wide = jax.tree.map(lambda x: x.astype(jnp.float32), arrays)
    return [jax.value_and_grad(total)(x) for x in (arrays, wide)]

  (value, gradient), (expected, wide) = program(arrays)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  for half, full in zip(
    jax.tree.leaves(gradient[:2]), jax.tree.leaves(wide[:2]), strict=True
  ):
    assert half.dtype == jnp.bfloat16
    error = np.linalg.norm(np.float32(half) - full)
    assert error <= 5e-3 * np.linalg.norm(full)


@pytest.mark.slow
def test_a_sharded_vocabulary_equals_one_device():
  mesh = jax.make_mesh(
    (2, 4), ("data", "vocab"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  tokens, vocab = 16, 24
  arrays = (
    make(tokens, WIDTH),
    make(vocab, WIDTH),
    make(tokens, 8),
    make(vocab, 8),
  )
  labels = RNG.integers(0, VOCAB, tokens)

  def total(axis_name, *arrays):
    *states, labels = arrays
    values = linear_distillation(
      *states,
      labels,
      temperature=2.0,
      cross_entropy_weight=0.5,
      vocab_size=VOCAB,
      vocab_axis_name=axis_name,
      chunk_size=5,
    )
    value = jnp.sum(2.0 * values[0] + values[1])
    return value if axis_name is None else jax.lax.psum(value, "data")

  specs = P("data"), P("vocab"), P("data"), P("vocab"), P("data")
  sharded = jax.shard_map(
    functools.partial(total, "vocab"),
    mesh=mesh,
    in_specs=specs,
    out_specs=P(),
  )
  one, many = (
    jax.jit(jax.value_and_grad(f, (0, 1)))(*arrays, labels)
    for f in (functools.partial(total, None), sharded)
  )
  laws._close(many, one, 2e-5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tokens():
  """And the logits of all tokens would take far more."""

  def memory(tokens):
    arrays = (
      jax.ShapeDtypeStruct((tokens, 16), np.float32),
      jax.ShapeDtypeStruct((4000, 16), np.float32),
      jax.ShapeDtypeStruct((tokens, 16), np.float32),
      jax.ShapeDtypeStruct((4000, 16), np.float32),
      jax.ShapeDtypeStruct((tokens,), np.int32),
    )

    def total(*arrays):
      values = linear_distillation(*arrays, chunk_size=64)
      return jnp.sum(values[0] + values[1])

    compiled = jax.jit(jax.grad(total, (0, 1))).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  small, large = memory(512), memory(2048)
  assert large - small < 1536 * 4000 * 4 / 20


def test_wrong_arguments_are_named():
  hidden, head, teacher, teacher_head = ARRAYS
  for call, error, text in (
    (
      lambda: linear_cross_entropy(hidden, head, LABELS[:3]),
      ValueError,
      "labels has shape",
    ),
    (
      lambda: linear_cross_entropy(hidden, head, LABELS, vocab_size=99),
      ValueError,
      "vocab_size is 99",
    ),
    (
      lambda: linear_distillation(
        hidden, head, teacher, teacher_head, hidden[:, 0]
      ),
      TypeError,
      "labels has dtype float32",
    ),
  ):
    with pytest.raises(error, match=text):
      call()
