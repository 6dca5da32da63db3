"""The laws of a loss, asked of all losses of federated learning."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import federated
from tests import laws

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 16, 4)).astype(np.float32)
CLIENTS = RNG.normal(size=(16, 2, 4)).astype(np.float32)
PROTOTYPES = RNG.normal(size=(3, 4)).astype(np.float32)
WEIGHTS = RNG.dirichlet(np.ones(2), 4).T.astype(np.float32)
LABELS = np.arange(16) % 3


def fedproto_loss(embeddings, other, labels, prototypes):
  """With an argument at the teacher's place, which it does not have."""
  del other
  return federated.fedproto_loss(
    embeddings, labels, prototypes, jnp.array([True, True, False])
  )


def fedgen_generator_loss(clients, other, labels, weights):
  del other
  logits = jnp.moveaxis(clients, 1, 0)
  return federated.fedgen_generator_loss(logits, labels, weights)


CASES = {
  "fedmd": laws.Case(federated.fedmd_loss, (STUDENT, TEACHER)),
  "feddf": laws.Case(
    federated.feddf_loss, (STUDENT, TEACHER), {"temperature": 2.0}
  ),
  "fedntd": laws.Case(
    federated.fedntd_loss, (STUDENT, TEACHER, LABELS), {"temperature": 2.0}
  ),
  "fedproto": laws.Case(
    fedproto_loss,
    (STUDENT, TEACHER, LABELS, PROTOTYPES),
    shared=(3,),
    partly=(0,),
    unused=(1,),
  ),
  "fedgkt": laws.Case(
    federated.fedgkt_loss,
    (STUDENT, TEACHER, LABELS),
    {"temperature": 3.0, "alpha": 1.0},
  ),
  "fedkd": laws.Case(
    federated.fedkd_loss, (STUDENT, TEACHER, LABELS), coupled=True
  ),
  "fedgen_generator": laws.Case(
    fedgen_generator_loss,
    (CLIENTS, TEACHER, LABELS, WEIGHTS),
    shared=(3,),
    unused=(1,),
  ),
  "fedgen_diversity": laws.Case(
    federated.fedgen_diversity_loss, (STUDENT, TEACHER), coupled=True
  ),
}


QUICK = {"fedkd", "fedntd"}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES, quick=QUICK))
def test_law(name, law):
  law(CASES[name])
