"""USKD: its weak classifier."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.distillation import uskd_loss
from kdjax.methods.distillation.logits._uskd import _uskd
from kdjax.nets import Outputs

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
MASK = np.arange(4) < 3
BATCH = {"label": jnp.asarray(np.arange(4) % 3), "mask": jnp.asarray(MASK)}


def network(*shapes, width=6):
  """Outputs for 4 images with features of these shapes."""
  features = {
    f"f{i:02}": RNG.normal(size=(4, *shape)).astype(np.float32)
    for i, shape in enumerate(shapes)
  }
  logits, embedding = (
    RNG.normal(size=(4, n)).astype(np.float32) for n in (3, width)
  )
  return jax.tree.map(jnp.asarray, Outputs(logits, features, embedding))


def loss_of(objective, **outputs):

  @jax.jit
  def program(outputs):
    params, state = objective.init(KEY, outputs)
    value, *_ = objective.apply(params, state, outputs, BATCH, KEY)
    return params, value

  return program(outputs)


def test_uskd_classifies_the_stage_before_the_last():
  student = network((4, 4, 5), (4, 4, 7), (2, 2, 9))
  params, value = loss_of(_uskd(alpha=1.0, weak_weight=2.0), student=student)
  assert params["kernel"].shape == (7, 3)
  stage = np.asarray(student.features["f01"])
  weak = stage.mean((1, 2)) @ np.asarray(params["kernel"])
  expected = jax.jit(uskd_loss)(
    student.logits,
    BATCH["label"],
    weak + np.asarray(params["bias"]),
    weak_weight=2.0,
    where=BATCH["mask"],
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
