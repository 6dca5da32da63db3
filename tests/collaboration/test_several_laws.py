"""The laws of a loss, asked of all losses of peers, branches and chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import collaboration
from tests import laws

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 16, 4)).astype(np.float32)
PEERS = RNG.normal(size=(16, 2, 4)).astype(np.float32)
GATE = RNG.dirichlet(np.ones(2), 16).astype(np.float32)
ATTENTION = RNG.dirichlet(np.ones(2), (16, 2)).astype(np.float32)
CENTERS = RNG.normal(size=(4, 4)).astype(np.float32)
LABELS = np.arange(16) % 3


def peers_first(x):
  return jnp.moveaxis(x, 1, 0)


def mutual_loss(student, others, *, epsilon):
  """Of the first peer, which takes the place of the first of the others."""
  logits = jax.lax.dynamic_update_slice(
    peers_first(others), jnp.reshape(student, (1, *student.shape)), (0, 0, 0)
  )
  return collaboration.mutual_loss(logits, epsilon=epsilon)[0]


def one_loss(logits, gate, **hyper):
  return collaboration.one_loss(peers_first(logits), gate, **hyper)


def okddip_loss(logits, other, attention, **hyper):
  """With an argument at the teacher's place, which it does not have."""
  del other
  return collaboration.okddip_loss(peers_first(logits), attention, **hyper)


def codistillation_loss(student, others):
  return collaboration.codistillation_loss(student, peers_first(others))


def dense_guidance_loss(student, teachers, **hyper):
  return collaboration.dense_guidance_loss(
    student, peers_first(teachers), **hyper
  )


def sandwich_loss(students, teacher, **hyper):
  return collaboration.sandwich_loss(peers_first(students), teacher, **hyper)


def refilled_class_loss(student, embeddings, centers, *, temperature):
  return collaboration.refilled_class_loss(
    student, embeddings, centers, temperature=temperature
  )


def amalgamation_loss(student, teachers, *, temperature):
  classes = [np.array([0, 2]), np.array([2, 3, 1])]
  return collaboration.amalgamation_loss(
    student, teachers, classes, temperature=temperature
  )


SOFT = {"temperature": 3.0, "epsilon": 1e-3}
CASES = {
  "mutual": laws.Case(
    mutual_loss, (STUDENT, PEERS), {"epsilon": 1e-3}, partly=(1,)
  ),
  "one": laws.Case(one_loss, (PEERS, GATE), SOFT),
  "okddip": laws.Case(
    okddip_loss, (PEERS, TEACHER, ATTENTION), SOFT, unused=(1,)
  ),
  "codistillation": laws.Case(codistillation_loss, (STUDENT, PEERS)),
  "dense_guidance": laws.Case(
    dense_guidance_loss, (STUDENT, PEERS), {"temperature": 5.0}
  ),
  "sandwich": laws.Case(sandwich_loss, (PEERS, TEACHER), {"temperature": 2.0}),
  "annealing": laws.Case(
    collaboration.annealing_loss,
    (STUDENT, TEACHER),
    {"temperature": 4.0, "max_temperature": 10.0},
  ),
  "refilled_relation": laws.Case(
    collaboration.refilled_relation_loss,
    (STUDENT, TEACHER, LABELS),
    {"temperature": 4.0, "margin": 0.5},
    coupled=True,
  ),
  "refilled_class": laws.Case(
    refilled_class_loss,
    (STUDENT, TEACHER, CENTERS),
    {"temperature": 2.0},
    shared=(2,),
  ),
  "amalgamation": laws.Case(
    amalgamation_loss,
    (STUDENT, [TEACHER[:, :2], PEERS[:, 0, :3]]),
    {"temperature": 2.0},
  ),
}


QUICK = {"mutual", "refilled_relation"}
# The target of ONE moves with the student, and has no gradient.
WITHOUT = {("one", laws.gradients_equal_finite_differences)}


@pytest.mark.parametrize(
  ("name", "law"), laws.pairs(CASES, WITHOUT, quick=QUICK)
)
def test_law(name, law):
  law(CASES[name])
