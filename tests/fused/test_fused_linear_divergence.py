"""Divergences from hidden states: equal to the dense form, at its cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.fused import (
  Divergence,
  Head,
  _linear_values,
  fused_divergence,
  fused_linear_divergence,
)
from kdjax.ops import kl_divergence
from tests import laws
from tests.fused import divergences

TOKENS, WIDTH, TEACHER_WIDTH, VOCAB = 13, 6, 8, 20
WHERE = np.arange(TOKENS) % 4 != 1


def make(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


STUDENT = make(TOKENS, WIDTH, seed=1)
TEACHER = make(TOKENS, TEACHER_WIDTH, seed=2)
# The student's vocabulary is padded, its head has everything.
STUDENT_HEAD = Head(
  make(VOCAB + 3, WIDTH, seed=3),
  make(VOCAB + 3, seed=4),
  np.float32(1.3),
  np.float32(5.0),
)
TEACHER_HEAD = Head(make(VOCAB, TEACHER_WIDTH, seed=5))


def dense_logits(hidden, head):
  weight, bias, scale, softcap = head
  logits = hidden @ weight.T
  if bias is not None:
    logits = logits + bias[None]
  if scale is not None:
    logits = scale * logits
  if softcap is not None:
    logits = softcap * jnp.tanh(logits / softcap)
  return logits[:, :VOCAB]


def dense(student, student_head, teacher, teacher_head, **options):
  """The loss as everyone writes it."""
  return kl_divergence(
    dense_logits(student, student_head),
    dense_logits(teacher, teacher_head),
    **options,
  )


@functools.cache
def compiled(loss, **options):
  """Values and gradients by all arrays of a weighted sum over `WHERE`."""

  def total(arrays, weights):
    values = loss(*arrays, temperature=2.0, **options)
    values = jnp.where(WHERE, values, 0.0)
    return jnp.sum(weights * values), values

  return jax.jit(jax.value_and_grad(total, has_aux=True))


ARRAYS = (STUDENT, STUDENT_HEAD, TEACHER, TEACHER_HEAD)


@pytest.mark.parametrize(
  "weights",
  [np.full(TOKENS, 1 / 13, np.float32), np.zeros(TOKENS), make(TOKENS)],
  ids=["mean", "none", "any"],
)
@pytest.mark.parametrize("chunk_size", [5, TOKENS])
def test_equals_the_dense_form_in_values_and_all_gradients(chunk_size, weights):
  loss = compiled(
    fused_linear_divergence, chunk_size=chunk_size, stop_teacher_gradient=False
  )
  weights = np.float32(weights)
  laws._close(loss(ARRAYS, weights), compiled(dense)(ARRAYS, weights), 2e-5)


@pytest.mark.slow
def test_where_inside_silences_what_the_others_hold():
  spoilt = STUDENT.copy()
  spoilt[~WHERE] = np.nan
  weights = np.full(TOKENS, 0.1, np.float32)

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1))
  def program(student, head):
    values = fused_linear_divergence(
      student,
      head,
      TEACHER,
      TEACHER_HEAD,
      temperature=2.0,
      where=WHERE,
      chunk_size=5,
    )
    return jnp.sum(weights * values)

  (value, _), gradients = compiled(dense)(ARRAYS, weights)
  result = program(spoilt, STUDENT_HEAD)
  laws._close(result, (value, gradients[:2]), 2e-5)
  np.testing.assert_array_equal(np.asarray(result[1][0])[~WHERE], 0)


@pytest.mark.slow
def test_weights_inside_need_no_second_computation(monkeypatch):
  """They give what they give outside, where every chunk is corrected."""
  computed = []
  original = _linear_values._chunk_gradients

  def counting(*args):
    jax.debug.callback(lambda: computed.append(1))
    return original(*args)

  monkeypatch.setattr(_linear_values, "_chunk_gradients", counting)
  weights = make(TOKENS, seed=6)
  weights[3] = 0

  def total(arrays, *, inside):
    values = fused_linear_divergence(
      *arrays,
      temperature=2.0,
      where=WHERE,
      weights=weights if inside else None,
      stop_teacher_gradient=False,
      chunk_size=5,
    )
    return jnp.sum(values if inside else weights * values)

  results, counts = [], []
  for inside in (True, False):
    program = jax.jit(
      jax.value_and_grad(functools.partial(total, inside=inside))
    )
    results.append(jax.block_until_ready(program(ARRAYS)))
    jax.effects_barrier()
    counts.append(len(computed))
    computed.clear()
  assert counts == [3, 6]
  laws._close(*results, 2e-5)


@pytest.mark.slow
def test_weights_that_are_learned_may_be_zero():
  """A gradient's derivative by weights outside, where it needs no product."""

  def slope(loss):
    def along(weights):
      def total(hidden, head):
        return jnp.sum(weights * loss(hidden, head, *ARRAYS[2:]))

      gradients = jax.grad(total, (0, 1))(*ARRAYS[:2])
      return sum(jnp.sum(x) for x in jax.tree.leaves(gradients))

    return jax.grad(along)(jnp.zeros(TOKENS))

  ours = functools.partial(fused_linear_divergence, chunk_size=5)
  laws._close(*jax.jit(lambda: (slope(ours), slope(dense)))(), 2e-5)


@pytest.mark.slow
def test_a_teacher_of_logits_is_one_of_hidden_states():
  weights = make(TOKENS)
  logits = np.asarray(dense_logits(TEACHER, TEACHER_HEAD))

  @jax.jit
  def program(student, head, logits):
    def total(student, head, logits):
      values = fused_linear_divergence(
        student,
        head,
        logits,
        None,
        temperature=2.0,
        chunk_size=5,
        stop_teacher_gradient=False,
      )
      return jnp.sum(weights * values)

    def reference(student, head, logits):
      values = kl_divergence(
        dense_logits(student, head), logits, temperature=2.0
      )
      return jnp.sum(weights * values)

    arguments = (student, head, logits)
    return [
      jax.value_and_grad(f, (0, 1, 2))(*arguments) for f in (total, reference)
    ]

  laws._close(*program(STUDENT, STUDENT_HEAD, logits), 2e-5)


def linear_jsd(student, teacher, student_head, teacher_head, **hyper):
  return fused_linear_divergence(
    student,
    student_head,
    teacher,
    teacher_head,
    divergence=Divergence("jsd", hyper.pop("beta")),
    chunk_size=5,
    **hyper,
  )


CASE = laws.Case(
  linear_jsd,
  (make(16, 6, seed=1), make(16, 8, seed=2), make(9, 6), make(9, 8)),
  {"temperature": 2.0, "beta": 0.3},
  shared=(2, 3),
)


@pytest.mark.parametrize(
  ("name", "law"),
  laws.pairs({"": CASE}, without=[laws.gradients_equal_finite_differences]),
)
def test_law(name, law):
  law(CASE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forward_kl", "jsd"])
def test_a_sharded_vocabulary_equals_one_device(name):
  """Tokens over two devices, classes over four, with padding at the end."""
  mesh = jax.make_mesh(
    (2, 4), ("data", "vocab"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  student, teacher = make(16, WIDTH, seed=1), make(16, TEACHER_WIDTH, seed=2)
  heads = (
    Head(make(24, WIDTH, seed=3), make(24, seed=4), np.float32(1.5)),
    Head(make(24, TEACHER_WIDTH, seed=5)),
  )
  # The padding holds what would be noticed.
  heads[0].bias[21:] = 100.0
  weights = make(16)

  def losses(student, teacher, student_head, teacher_head, axis_name=None):
    values = fused_linear_divergence(
      student,
      student_head,
      teacher,
      teacher_head,
      divergence=name,
      temperature=2.0,
      vocab_size=21,
      chunk_size=3,
      vocab_axis_name=axis_name,
      stop_teacher_gradient=False,
    )
    # The logits themselves, sharded, and no padding.
    logits = [
      h @ w.weight.T
      for h, w in ((student, student_head), (teacher, teacher_head))
    ]
    return values, fused_divergence(
      *logits, divergence=name, vocab_axis_name=axis_name
    )

  by_vocab = Head(P("vocab"), P("vocab"), P()), Head(P("vocab"))
  sharded = jax.shard_map(
    functools.partial(losses, axis_name="vocab"),
    mesh=mesh,
    in_specs=(P("data"), P("data"), *by_vocab),
    out_specs=P("data"),
  )

  @functools.partial(jax.jit, static_argnums=0)
  def program(losses, *arrays):
    def total(*arrays):
      values = losses(*arrays)
      return sum(jnp.sum(weights * v) for v in values), values

    return jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True)(*arrays)

  arrays = (student, teacher, *heads)
  laws._close(program(sharded, *arrays), program(losses, *arrays), 2e-5)


@pytest.mark.slow
def test_half_precision_keeps_the_gradient():
  """Products are not rounded: rounding the logits costs ten times the error.

  The means of a short and a long sequence: of weights that lie far apart, the
  differences to the largest one would be rounded like the largest one.
  """
  weights = 1 / np.repeat(np.float32([1, 31]), [1, 31])
  hidden, head, teacher = (
    jnp.asarray(x, jnp.bfloat16)
    for x in (
      make(32, 64, seed=1),
      make(256, 64, seed=2) / 2,
      make(32, 64, seed=1) + make(32, 64, seed=3) / 4,
    )
  )

  def dense(hidden, weight, rounded=False):
    logits = (
      hidden @ weight.T,
      teacher.astype(jnp.float32) @ head.T.astype(jnp.float32),
    )
    if rounded:  # to bfloat16
      logits = [jax.lax.reduce_precision(z, 8, 7) for z in logits]
    return kl_divergence(*logits)

  def ours(hidden, weight):
    return fused_linear_divergence(hidden, weight, teacher, head, chunk_size=8)

  @jax.jit
  def program(hidden, head):
    wide = hidden.astype(jnp.float32), head.astype(jnp.float32)

    def gradient(loss, arrays):
      return jax.grad(lambda h, w: jnp.sum(weights * loss(h, w)), 1)(*arrays)

    return (
      gradient(dense, wide),
      gradient(ours, (hidden, head)),
      gradient(functools.partial(dense, rounded=True), wide),
    )

  exact, fused, rounded = program(hidden, head)
  scale = np.linalg.norm(exact)
  assert np.linalg.norm(fused.astype(jnp.float32) - exact) < 0.005 * scale
  assert np.linalg.norm(rounded - exact) > 0.02 * scale


@pytest.mark.slow
def test_a_class_that_the_bias_masks_gives_the_head_no_nan():
  mask = np.float32([0, -np.inf, 0])
  head = Head(make(3, 4), mask, np.float32(2))
  teacher = make(2, 3) + mask

  @jax.jit
  @jax.grad
  def program(heads):
    return sum(
      fused_linear_divergence(make(2, 4), head, teacher, None).sum()
      for head in heads
    )

  gradients = program([head, head._replace(softcap=np.float32(9))])
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))


def test_numbers_of_a_head_are_of_any_dtype():
  head = Head(make(7, 6), scale=2, softcap=30.0)
  with jax.enable_x64(True):
    values = jax.eval_shape(
      lambda hidden: fused_linear_divergence(hidden, head, hidden, head),
      make(2, 6),
    )
  assert values.dtype == jnp.float32


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tokens():
  """Numbers of rows and hidden states do; the vocabulary does not enter."""

  def temporary(tokens):
    arrays = [
      jax.ShapeDtypeStruct(shape, jnp.float32)
      for shape in ((tokens, 8), (2048, 8), (tokens, 8), (2048, 8))
    ]
    program = jax.jit(
      jax.grad(
        lambda *a: jnp.sum(fused_linear_divergence(*a, chunk_size=16)), (0, 1)
      )
    )
    analysis = program.lower(*arrays).compile().memory_analysis()
    return analysis.temp_size_in_bytes

  small, large = temporary(64), temporary(512)
  assert large - small < 0.02 * 448 * 2048 * 4


def test_it_lowers_for_accelerators():
  arrays = [
    jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    for shape in ((64, 8), (300, 8), (64, 8), (300, 8))
  ]
  program = jax.jit(
    jax.grad(lambda *a: jnp.sum(fused_linear_divergence(*a, chunk_size=16)))
  )
  exported = jax.export.export(program, platforms=["cuda", "tpu"])(*arrays)
  # No bfloat16 logits: products are float32 before anything else is.
  assert "tensor<16x300xbf16>" in exported.mlir_module()  # their gradient
  assert ", tensor<300x8xbf16>) -> tensor<16x300xbf16>" not in (
    exported.mlir_module()
  )


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"student_head": make(7, 5)}, r"student_head has weights of shape"),
    ({"student_head": Head(make(7, 6), make(6))}, r"bias of shape \(6,\)"),
    ({"student_head": Head(make(7, 6), scale=make(1))}, r"scale of shape"),
    ({"student_head": Head(make(7, 6), softcap=0)}, r"softcap is 0; expected"),
    ({"vocab_size": 8}, r"vocab_size is 8; expected at most 7"),
    ({"teacher_hidden": make(3, 8)}, r"teacher_hidden has shape \(3, 8\)"),
    ({"implementation": "mosaic_gpu"}, r"'mosaic_gpu' is not available"),
  ],
)
def test_errors_say_what_was_expected(change, words):
  arguments = {
    "student_hidden": make(2, 6),
    "student_head": make(7, 6),
    "teacher_hidden": make(2, 8),
    "teacher_head": make(9, 8),
  }
  with pytest.raises(ValueError, match=words):
    fused_linear_divergence(**(arguments | change))


def test_what_no_padding_explains_is_refused():
  """Hidden states without their head look like logits of few classes."""

  def shape(*sizes, **options):
    arrays = [jax.ShapeDtypeStruct((2, size), jnp.float32) for size in sizes]
    head = jax.ShapeDtypeStruct((3000, 6), jnp.float32)
    return jax.eval_shape(
      lambda hidden, teacher, head: fused_linear_divergence(
        hidden, head, teacher, None, **options
      ),
      *arrays,
      head,
    ).shape

  for classes in (768, 1600, 2048, 3072):
    with pytest.raises(
      ValueError, match=f"has 3000 classes and the teacher {classes}"
    ):
      shape(6, classes)
  for classes in (2936, 3064):
    assert shape(6, classes) == (2,)
  assert shape(6, 768, vocab_size=768) == (2,)


def test_integers_are_no_head():
  with pytest.raises(TypeError, match=r"student_head has a weight of dtype"):
    fused_linear_divergence(make(2, 6), np.ones((7, 6), int), make(2, 7), None)


def test_all_divergences_have_the_same_names():
  for name in divergences.NAMES:
    shape = jax.eval_shape(
      functools.partial(fused_linear_divergence, divergence=name),
      make(2, 3, 6),
      make(7, 6),
      make(2, 3, 8),
      make(9, 8),
    )
    assert shape.shape == (2, 3)
