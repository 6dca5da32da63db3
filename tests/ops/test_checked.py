"""Bad run-time values are found, and only when asked for."""

import jax
import jax.numpy as jnp
import pytest

from kdjax.distillation import kd_loss
from kdjax.ops import checked
from kdjax.ops import softened_softmax

LOGITS = jnp.array([[1.0, 2.0, 3.0]])
LABELS = jnp.array([1])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range(label):
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
    checked(kd_loss)(LOGITS, LOGITS, jnp.array([label]))


def test_a_traced_temperature():
  soften = checked(lambda z, t: softened_softmax(z, temperature=t))
  soften(LOGITS, jnp.float32(1.0))
  with pytest.raises(ValueError, match="temperature must be above 0"):
    soften(LOGITS, jnp.float32(0.0))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_inputs_that_are_not_finite(bad):
  with pytest.raises(ValueError, match=r"input \[0\]\[1\] holds NaN or \+inf"):
    checked(kd_loss)(LOGITS, LOGITS.at[0, 0].set(bad), jnp.array([0]))


def test_masked_classes_pass_and_the_value_is_unchanged():
  logits = LOGITS.at[0, 0].set(-jnp.inf)
  labels = jnp.array([1])
  assert checked(kd_loss)(logits, logits, labels) == kd_loss(
    logits, logits, labels
  )


def test_a_traced_weight():
  loss = checked(lambda alpha: kd_loss(LOGITS, LOGITS, LABELS, alpha=alpha))
  with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\]"):
    loss(jnp.float32(3.0))


def test_constants_stay_constants():
  strict = checked(kd_loss)(LOGITS, LOGITS, LABELS, stop_teacher_gradient=False)
  assert strict == kd_loss(LOGITS, LOGITS, LABELS)


def test_an_unchecked_function_compiles_without_checks():
  jax.jit(kd_loss)(LOGITS, LOGITS, jnp.array([7]))
