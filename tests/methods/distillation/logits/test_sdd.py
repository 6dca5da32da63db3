"""SDD: logits of regions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import regional_logits, sdd_loss
from kdjax.methods.distillation.logits._sdd import _sdd
from tests.methods.distillation.networks import BATCH, STUDENT, TEACHER, run


@pytest.mark.slow
def test_sdd_looks_through_each_networks_classifier():

  @jax.jit
  def expected(*networks):
    logits = (
      regional_logits(x.features["f1"], *x.classifier, grids=(1, 2))
      for x in networks
    )
    return jnp.mean(sdd_loss(*logits, BATCH["label"], temperature=2.0)[:13])

  np.testing.assert_allclose(
    run(_sdd(grids=(1, 2), temperature=2.0), STUDENT, TEACHER),
    expected(STUDENT, TEACHER),
    rtol=1e-5,
  )


def test_tokens_are_refused():
  tokens = STUDENT._replace(features={"f0": STUDENT.features["f1"][:, 0]})
  with pytest.raises(ValueError, match="student has last features of shape"):
    run(_sdd(), tokens, TEACHER)
