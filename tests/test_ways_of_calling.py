"""What programs of JAX users do with losses: transforms, settings, inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import adaptation, distillation, finetuning, metrics
from kdjax.ops import masked_mean

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0, 1])
WHERE = np.array([True, True, False, True, True, False])
PADDED = np.where(WHERE, LABELS, -100)
OF_LABELS = {
  "kd": distillation.kd_loss,
  "dkd": distillation.dkd_loss,
  "nkd": distillation.nkd_loss,
  "nll": lambda student, _, labels: metrics.negative_log_likelihood(
    student, labels
  ),
}


def batch_loss(student, teacher, labels, where):
  """A batch-coupled loss and one value an example, in one scalar."""
  values = distillation.kd_loss(student, teacher, labels, temperature=2.0)
  return masked_mean(values, where) + adaptation.mmd(
    student, teacher, gammas=0.3, where_source=where, where_target=where
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_LABELS)
def test_debug_nans_do_not_stop_at_masked_labels(name):
  def loss(student):
    return masked_mean(OF_LABELS[name](student, TEACHER, PADDED), WHERE)

  expected = jax.value_and_grad(loss)(jnp.asarray(STUDENT))
  with jax.debug_nans(True):
    for program in (
      jax.value_and_grad(loss),
      jax.jit(jax.value_and_grad(loss)),
    ):
      value, gradient = program(jnp.asarray(STUDENT))
      np.testing.assert_allclose(value, expected[0], rtol=1e-6)
      np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-7)
    # A label that counts is still no loss.
    assert not np.isfinite(loss_of_all(name))


def loss_of_all(name):
  return jnp.mean(OF_LABELS[name](STUDENT, TEACHER, PADDED))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.int32, np.float32, jnp.bfloat16])
def test_masks_of_zero_and_one(kind):
  mask = jnp.asarray(WHERE, kind)
  np.testing.assert_array_equal(
    batch_loss(STUDENT, TEACHER, LABELS, mask),
    batch_loss(STUDENT, TEACHER, LABELS, WHERE),
  )
  np.testing.assert_array_equal(
    metrics.cka(STUDENT, TEACHER, where=mask),
    metrics.cka(STUDENT, TEACHER, where=WHERE),
  )


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_one_hot_and_soft_labels(kind):
  one_hot = np.eye(4)[LABELS].astype(kind)
  np.testing.assert_allclose(
    distillation.kd_loss(STUDENT, TEACHER, one_hot),
    distillation.kd_loss(STUDENT, TEACHER, LABELS),
    rtol=1e-5,
  )


def test_nnx_variables_are_arrays():
  student, head = nnx.Param(jnp.asarray(STUDENT)), nnx.Param(jnp.eye(4))
  np.testing.assert_array_equal(
    distillation.kd_loss(student, TEACHER, LABELS),
    distillation.kd_loss(STUDENT, TEACHER, LABELS),
  )
  np.testing.assert_array_equal(
    finetuning.prototypical_logits(student, head),
    finetuning.prototypical_logits(STUDENT, jnp.eye(4)),
  )
  temperature = nnx.Param(jnp.asarray(2.0))
  np.testing.assert_array_equal(
    distillation.kd_loss(STUDENT, TEACHER, LABELS, temperature=temperature),
    distillation.kd_loss(STUDENT, TEACHER, LABELS, temperature=2.0),
  )


@pytest.mark.slow
def test_transforms_agree():
  """`partial`, `jvp`, `hessian`, `remat`, `scan` and `disable_jit`."""
  loss = functools.partial(
    batch_loss, teacher=TEACHER, labels=LABELS, where=WHERE
  )
  student = jnp.asarray(STUDENT)
  direction = jnp.asarray(TEACHER)

  @jax.jit
  def program(student):
    value, gradient = jax.value_and_grad(loss)(student)
    again, slope = jax.jvp(loss, (student,), (direction,))
    kept = jax.grad(jax.remat(loss))(student)
    along = jax.jvp(jax.grad(loss), (student,), (direction,))[1]
    hessian = jax.hessian(loss)(student)
    total = jax.lax.scan(
      lambda sum_, x: (sum_ + loss(x), None), 0.0, jnp.stack([student] * 2)
    )[0]
    return value, gradient, again, slope, kept, along, hessian, total

  value, gradient, again, slope, kept, along, hessian, total = program(student)
  np.testing.assert_allclose(again, value, rtol=1e-6)
  np.testing.assert_allclose(slope, np.sum(gradient * direction), rtol=1e-4)
  np.testing.assert_allclose(kept, gradient, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(total, 2 * value, rtol=1e-6)
  product = np.tensordot(hessian, direction, 2)
  np.testing.assert_allclose(along, product, rtol=1e-3, atol=1e-5)
  with jax.disable_jit():
    np.testing.assert_allclose(loss(student), value, rtol=1e-5)


@pytest.mark.parametrize(
  "kind",
  [
    jnp.bfloat16,
    jnp.float16,
    pytest.param(np.float64, marks=pytest.mark.slow),
  ],
)
def test_precisions(kind):
  with jax.enable_x64(kind is np.float64):
    arrays = [jnp.asarray(x, kind) for x in (STUDENT, TEACHER)]
    value = batch_loss(*arrays, LABELS, WHERE)
    assert value.dtype == (np.float64 if kind is np.float64 else np.float32)
    wide = [np.asarray(x, np.float32) for x in arrays]
    expected = batch_loss(*wide, LABELS, WHERE)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
