"""DELTA: features kept near those of the pretrained network."""

import jax
import numpy as np
import pytest

from kdjax.finetuning import bss_loss, delta_channel_attention, delta_loss
from tests import laws

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(2, 16, 3, 2, 5)).astype(np.float32)
ATTENTION = RNG.dirichlet(np.ones(5)).astype(np.float32)
ROWS = RNG.normal(size=(16, 5)).astype(np.float32)


def of_features(features, unused, **options):
  del unused
  return bss_loss(features, **options)


CASES = {
  "delta": laws.Case(delta_loss, tuple(MAPS)),
  "delta_attention": laws.Case(
    delta_loss, tuple(MAPS), options={"channel_attention": ATTENTION}
  ),
  "bss": laws.Case(
    of_features,
    (ROWS, ROWS),
    coupled=True,
    options={"num_singular_values": 2},
    unused=(1,),
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def test_delta_in_numpy():
  student, teacher = np.float64(MAPS)
  squares = ((student - teacher) ** 2).sum((1, 2))
  weighted = 5 / (2 * 3 * 2) * (squares * np.float64(ATTENTION)).sum(1)
  rows = np.ones((2, 5))

  @jax.jit
  def run(student, teacher, attention, rows):
    return (
      delta_loss(student, teacher),
      delta_loss(student, teacher, channel_attention=attention),
      delta_loss(rows, 0 * rows),
    )

  with jax.enable_x64(True):
    plain, attentive, of_rows = run(
      student, teacher, np.float64(ATTENTION), rows
    )
  np.testing.assert_allclose(plain, squares.sum(1) / 2, rtol=1e-13)
  np.testing.assert_allclose(attentive, weighted, rtol=1e-13)
  np.testing.assert_allclose(of_rows, [2.5, 2.5])


def test_channel_attention():
  increases = RNG.normal(size=7)
  z = (increases - increases.mean()) / increases.std() / 2.0
  expected = np.exp(z) / np.exp(z).sum()
  attention = jax.jit(delta_channel_attention)(
    np.float32(increases), temperature=2.0
  )
  np.testing.assert_allclose(attention, expected, rtol=1e-5)
  with pytest.raises(ValueError, match=r"temperature is 0.0; expected"):
    delta_channel_attention(np.ones(2, np.float32), temperature=0.0)
