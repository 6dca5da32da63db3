"""Bad run-time values are found, and only when asked for."""

import jax
import numpy as np
import pytest

from kdjax.distillation import kd_loss
from kdjax.ops import checked, softened_softmax

LOGITS = np.float32([[1.0, 2.0, 3.0]])
LABELS = np.array([1])


# Each of them compiles once for its shapes.
CHECKED = checked(kd_loss)
KD = jax.jit(kd_loss)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range(label):
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
    CHECKED(LOGITS, LOGITS, np.array([label]))


def test_a_traced_temperature():
  soften = checked(lambda z, t: softened_softmax(z, temperature=t))
  soften(LOGITS, np.array(1.0, np.float32))
  with pytest.raises(ValueError, match="temperature must be above 0"):
    soften(LOGITS, np.array(0.0, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_not_finite(bad):
  with pytest.raises(ValueError, match=r"input \[0\]\[1\] holds NaN or \+inf"):
    CHECKED(LOGITS, np.float32([[bad, 2.0, 3.0]]), np.array([0]))


def test_masked_classes_pass_and_the_value_is_unchanged():
  logits = np.float32([[-np.inf, 2.0, 3.0]])
  assert CHECKED(logits, logits, LABELS) == KD(logits, logits, LABELS)


def test_a_traced_weight():
  loss = checked(lambda alpha: kd_loss(LOGITS, LOGITS, LABELS, alpha=alpha))
  with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\]"):
    loss(np.array(3.0, np.float32))


def test_constants_stay_constants():
  strict = CHECKED(LOGITS, LOGITS, LABELS, stop_teacher_gradient=False)
  assert strict == KD(LOGITS, LOGITS, LABELS)


def test_an_unchecked_function_compiles_without_checks():
  """Its program has no effects; within `checked` it is traced again."""
  KD(LOGITS, LOGITS, np.array([7]))
  assert not KD.trace(LOGITS, LOGITS, LABELS).jaxpr.effects
  loss = checked(lambda labels: KD(LOGITS, LOGITS, labels))
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
    loss(np.array([7]))
