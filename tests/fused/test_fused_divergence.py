"""Divergences of logits: values, gradients, extremes, shards and errors."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.fused import Divergence, fused_divergence
from kdjax.ops import kl_divergence
from tests import laws
from tests.fused import divergences

ROWS, CLASSES = 8, 11


@functools.cache
def compiled(name):
  """Values and gradients by both, whole and in chunks that overlap."""
  divergence = Divergence(name, divergences.SHARES.get(name))

  def program(student, teacher, temperature, weights):
    def weighted(student, teacher, **options):
      values = fused_divergence(
        student,
        teacher,
        divergence=divergence,
        temperature=temperature,
        stop_teacher_gradient=False,
        **options,
      )
      return jnp.sum(jnp.where(weights == 0, 0, weights * values)), values

    return [
      jax.value_and_grad(
        functools.partial(weighted, **options), (0, 1), has_aux=True
      )(student, teacher)
      for options in ({"implementation": "xla"}, {"chunk_size": 3})
    ]

  return jax.jit(program)


@pytest.mark.slow
@pytest.mark.parametrize("name", divergences.NAMES)
def test_values_and_gradients_equal_their_formulas(name):
  weights = np.linspace(-1, 2, ROWS, dtype=np.float32)
  for gap, temperature in ((0.01, 1.0), (1.0, 4.0), (30.0, 0.7)):
    student, teacher = divergences.make_logits(7, ROWS, CLASSES, gap)
    temperature = np.linspace(0.5, 1.5, ROWS, dtype=np.float32) * temperature
    expected, *slopes = divergences.values_and_gradients(
      name, student, teacher, temperature
    )
    results = compiled(name)(student, teacher, temperature, weights)
    for (_, values), gradients in results:
      assert values.dtype == jnp.float32
      # Total variation is a difference of probabilities, not of logarithms.
      divergences.close(values, expected, 2e-5)
      for gradient, slope in zip(gradients, slopes, strict=True):
        divergences.close(gradient, weights[:, None] * slope, 5e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 100.0])
@pytest.mark.parametrize("gap", [1e-3, 1e-2, 0.1, 1.0, 5.0, 30.0])
def test_five_digits_in_float32(gap, temperature):
  student, teacher = divergences.make_logits(3, ROWS, CLASSES, gap, scale=4)
  expected, by_student, _ = divergences.values_and_gradients(
    "forward_kl", student, teacher, temperature
  )
  temperatures = np.full(ROWS, temperature, np.float32)
  ones = np.ones(ROWS, np.float32)
  (_, values), gradients = compiled("forward_kl")(
    student, teacher, temperatures, ones
  )[0]
  divergences.close(values, expected, 1e-5)
  divergences.close(gradients[0], by_student, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", divergences.NAMES)
def test_extremes_are_those_of_the_exact_form(name):
  """Rows of three classes, padded by masked ones to the compiled shape."""
  rows = [np.stack(row) for row in divergences.EXTREMES.values()]
  pair = np.full((2, ROWS, CLASSES), -np.inf, np.float32)
  pair[:, :, :3] = np.stack(rows, 1)
  ones = np.ones(ROWS, np.float32)
  results = jax.device_get(compiled(name)(*pair, ones, ones))
  infinite = {"forward_kl": 1, "reverse_kl": 2}.get(name, 0)
  for (_, values), gradients in results:
    assert np.sum(np.isposinf(values)) == infinite
    assert np.all(np.isfinite(values) | np.isposinf(values))
    finite = np.isfinite(values)
    assert np.all(values[finite] >= 0)
    for gradient in gradients:
      gradient = gradient[finite]
      assert np.all(np.isfinite(gradient))
      np.testing.assert_array_equal(gradient[:, 3:], 0)
    np.testing.assert_array_equal(values[2:5], 0)
  if name == "forward_kl":
    assert np.all(np.isfinite(gradients[0]))
    expected = jax.jit(kl_divergence)(*pair)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_weight_of_zero_silences_anything():
  student, teacher = divergences.make_logits(1, ROWS, CLASSES, 1.0)
  weights = np.float32(np.arange(ROWS) != 3)
  ones = np.ones(ROWS, np.float32)
  spoilt = student.copy()
  spoilt[3, 0] = np.nan
  for (_, values), gradients in compiled("jsd")(spoilt, teacher, ones, weights):
    assert np.isnan(values[3])  # NaN is no mask
    assert np.all(np.isfinite(gradients[0]))
    np.testing.assert_array_equal(np.asarray(gradients[0])[3], 0)


LOGITS = divergences.make_logits(5, 16, 10, 1.0)


def jsd(student, teacher, temperature, beta, **options):
  return fused_divergence(
    student,
    teacher,
    divergence=Divergence("jsd", beta),
    temperature=temperature,
    **options,
  )


CASES = {
  "forward_kl": laws.Case(fused_divergence, LOGITS, {"temperature": 4.0}),
  "jsd": laws.Case(
    jsd, LOGITS, {"temperature": 2.0, "beta": 0.3}, options={"chunk_size": 5}
  ),
}


@pytest.mark.parametrize(
  ("name", "law"),
  laws.pairs(CASES, without=[laws.gradients_equal_finite_differences]),
)
def test_law(name, law):
  law(CASES[name])


@pytest.mark.slow
def test_finite_differences_in_float64():
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    pair = np.float64(divergences.make_logits(2, 3, 5, 1.0, scale=1.0))
    direction = rng.normal(size=pair.shape)
    weights = rng.normal(size=(6, 3))

    @jax.jit
    def program(step):
      def total(pair):
        return sum(
          jnp.sum(
            w
            * fused_divergence(
              *pair,
              divergence=name,
              temperature=1.7,
              stop_teacher_gradient=False,
            )
          )
          for w, name in zip(weights, divergences.NAMES, strict=True)
        )

      value, gradient = jax.value_and_grad(total)(pair + step * direction)
      return value, jnp.sum(gradient * direction)

    values = [float(program(step)[0]) for step in (1e-6, -1e-6)]
    difference = (values[0] - values[1]) / 2e-6
    np.testing.assert_allclose(program(0.0)[1], difference, rtol=1e-6)


def test_one_class_and_one_token():
  one = np.float32([[5.0]])
  program = jax.jit(jax.value_and_grad(lambda s: fused_divergence(s, -s)[0]))
  value, gradient = program(one)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)
  single = jax.eval_shape(fused_divergence, one[0], one[0])
  assert single.shape == ()
  none = np.ones((0, 3), np.float32)
  assert fused_divergence(none, none).shape == (0,)


def test_between_the_passes_only_numbers_of_rows_are_kept():
  """Forward and backward apart: the logits themselves and eight numbers."""
  student, teacher = divergences.make_logits(0, 64, 512, 1.0)
  _, pullback = jax.vjp(
    jax.jit(lambda s: fused_divergence(s, teacher)), student
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(pullback)]
  assert sorted(n for n in sizes if n > 64) == [student.size] * 2
  assert sum(n for n in sizes if n <= 64) <= 10 * 64


@pytest.mark.slow
def test_temporary_memory_does_not_grow_with_the_tokens():
  def temporary(tokens):
    logits = jax.ShapeDtypeStruct((tokens, 1024), jnp.float32)
    program = jax.jit(
      jax.grad(lambda s, t: jnp.sum(fused_divergence(s, t, chunk_size=8)))
    )
    analysis = program.lower(logits, logits).compile().memory_analysis()
    return analysis.temp_size_in_bytes

  small, large = temporary(32), temporary(256)
  assert large - small < 0.05 * 224 * 1024 * 4


def test_the_choice_is_logged_once(caplog):
  logits = np.ones((3, 7), np.float32)
  with caplog.at_level(logging.INFO, "kdjax.fused"):
    jax.eval_shape(fused_divergence, logits, logits)
    jax.eval_shape(fused_divergence, logits, logits)
  assert len(caplog.records) == 1
  assert "'xla' for [3, 7] logits" in caplog.text
  assert "kernels are chosen by name only" in caplog.text


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"divergence": "kl"}, r"divergence is 'kl'; expected one of"),
    ({"divergence": Divergence("jsd", 1.5)}, r"share is 1.5; expected"),
    ({"divergence": Divergence("forward_kl", 0.5)}, r"has no share"),
    ({"temperature": 0.0}, r"temperature is 0.0; expected"),
    (
      {"implementation": "mosaic_gpu", "vocab_axis_name": "model"},
      r"'mosaic_gpu', which has forward_kl and reverse_kl",
    ),
    (
      {"implementation": "mosaic_tpu", "divergence": "jsd"},
      r"'mosaic_tpu', which has forward_kl and reverse_kl",
    ),
    ({"implementation": "fast"}, r"implementation is 'fast'; expected one"),
    (
      {"implementation": "xla", "chunk_size": 2},
      r"expected None for impl",
    ),
    ({"chunk_size": 0}, r"chunk_size is 0; expected"),
    ({"where": np.ones(3, bool)}, r"where has shape \(3,\); expected"),
  ],
)
def test_errors_say_what_was_expected(options, words):
  with pytest.raises(ValueError, match=words):
    laws.trace(fused_divergence, np.ones((2, 3)), np.ones((2, 3)), **options)
