"""FedKD and FedGKT against the formulas of their authors' code."""

import jax
import numpy as np
import pytest

from kdjax.federated import fedgkt_loss, fedkd_loss, fedntd_loss, fedproto_loss

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 4)).astype(np.float32)
LABELS = np.arange(6) % 4


def soft(logits):
  return np.exp(logits) / np.exp(np.float64(logits)).sum(-1, keepdims=True)


def entropies(logits):
  return -np.log(soft(logits)[np.arange(6), LABELS])


def test_fedkd_is_divided_by_both_cross_entropies():
  p, q = soft(TEACHER), soft(STUDENT)
  divergence = (p * np.log(p / q)).sum(-1).mean()
  expected = divergence / (entropies(STUDENT) + entropies(TEACHER)).mean()
  got = jax.jit(fedkd_loss)(STUDENT, TEACHER, LABELS)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_fedgkt_is_the_sum_of_labels_and_softened_divergence():
  p, q = soft(TEACHER / 3), soft(STUDENT / 3)
  expected = entropies(STUDENT) + 0.5 * 9 * (p * np.log(p / q)).sum(-1)
  got = jax.jit(fedgkt_loss)(STUDENT, TEACHER, LABELS, alpha=0.5)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [fedgkt_loss, fedntd_loss])
def test_a_temperature_of_0_is_an_error(loss):
  with pytest.raises(ValueError, match="temperature is 0; expected a finite"):
    loss(STUDENT, TEACHER, LABELS, temperature=0)


def test_a_label_without_a_row_of_prototypes_is_nan():
  losses = fedproto_loss(STUDENT, LABELS, TEACHER[:3])
  np.testing.assert_array_equal(np.isnan(losses), LABELS == 3)
