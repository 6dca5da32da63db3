"""CRLD, CS-KD, SSKD, SDD and WKD on the outputs of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import crld_loss
from kdjax.distillation import regional_logits
from kdjax.distillation import sdd_loss
from kdjax.distillation import wkd_class_cost
from kdjax.distillation import wkd_logit_loss
from kdjax.nets import Outputs
from kdjax.objectives import crld
from kdjax.objectives import cskd
from kdjax.objectives import sdd
from kdjax.objectives import sskd
from kdjax.objectives import wkd_logit
from kdjax.ops import cross_entropy

KEY = jax.random.key(0)
BATCH = {"mask": jnp.arange(8) < 6, "label": jnp.arange(8) % 5}
ROTATED = ("rotated_1", "rotated_2", "rotated_3")


def network(seed, width, views=()):
  rng = np.random.default_rng(seed)
  maps, kernel, bias = (
    rng.normal(size=shape).astype(np.float32)
    for shape in ((8, 4, 4, width), (width, 5), (5,))
  )
  embedding = maps.mean((1, 2))
  return jax.tree.map(
    jnp.asarray,
    Outputs(
      embedding @ kernel + bias[None],
      {"f0": maps[..., :2], "f1": maps},
      embedding,
      classifier=(kernel, bias),
      views={v: network(seed + 10 + i, width) for i, v in enumerate(views)},
    ),
  )


STUDENT, TEACHER = network(0, 6, ROTATED), network(1, 7, ROTATED)


def value_of(objective, student=STUDENT, teacher=TEACHER):

  @jax.jit
  def program(student, teacher):
    params, state = objective.init(KEY, student, teacher)
    return objective.apply(params, state, student, teacher, BATCH, KEY)[0]

  return program(student, teacher)


def test_crld_adds_the_cross_entropy_of_the_strong_view():

  @jax.jit
  def expected(student, teacher):
    strong, teacher_strong = (
      x.views["rotated_1"].logits for x in (student, teacher)
    )
    values = crld_loss(
      student.logits,
      teacher.logits,
      strong,
      teacher_strong,
      weak_threshold=0.3,
    )
    return jnp.mean((values + cross_entropy(strong, BATCH["label"]))[:6])

  np.testing.assert_allclose(
    value_of(crld(view="rotated_1", weak_threshold=0.3)),
    expected(STUDENT, TEACHER),
    rtol=1e-5,
  )


def test_sdd_looks_through_each_networks_classifier():

  @jax.jit
  def expected(*networks):
    logits = (
      regional_logits(x.features["f1"], *x.classifier, grids=(1, 2))
      for x in networks
    )
    return jnp.mean(sdd_loss(*logits, BATCH["label"], temperature=2.0)[:6])

  np.testing.assert_allclose(
    value_of(sdd(grids=(1, 2), temperature=2.0)),
    expected(STUDENT, TEACHER),
    rtol=1e-5,
  )


def test_wkd_reads_its_cost_from_the_teachers_classifier():

  @jax.jit
  def expected(student, teacher):
    cost = wkd_class_cost(teacher.classifier[0], sharpness=2.0)
    values = wkd_logit_loss(
      student.logits, teacher.logits, BATCH["label"], cost, gamma=5.0
    )
    return jnp.mean(values[:6])

  np.testing.assert_allclose(
    value_of(wkd_logit(sharpness=2.0, gamma=5.0)),
    expected(STUDENT, TEACHER),
    rtol=1e-5,
  )


def test_only_the_pretext_task_trains_the_teachers_head():
  def slope(**weights):
    objective = sskd(transformed_weight=0.0, **weights)

    @jax.jit
    def program(student, teacher):
      params, state = objective.init(KEY, student, teacher)

      def value(params):
        return objective.apply(params, state, student, teacher, BATCH, KEY)[0]

      return jax.grad(value)(params)

    return program(STUDENT, TEACHER)

  with_similarity, without = slope(), slope(similarity_weight=0.0)
  for a, b in zip(
    *(jax.tree.leaves(x["teacher"]) for x in (with_similarity, without)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  assert any(np.any(x != 0) for x in jax.tree.leaves(without["teacher"]))
  for leaf in jax.tree.leaves(without["student"]):
    np.testing.assert_array_equal(leaf, 0.0)


@pytest.mark.parametrize(
  ("objective", "words"),
  [
    (crld(), r"student has the views .*; expected one called 'strong'"),
    (cskd(), r"student has the views .*; expected one called 'partner'"),
  ],
)
def test_a_missing_view_is_named(objective, words):
  with pytest.raises(ValueError, match=words):
    value_of(objective)


def test_what_a_network_lacks_is_named():
  tokens = STUDENT._replace(features={"f0": STUDENT.features["f1"][:, 0]})
  with pytest.raises(ValueError, match="student has last features of shape"):
    value_of(sdd(), student=tokens)
  with pytest.raises(ValueError, match="teacher has no classifier"):
    value_of(wkd_logit(), teacher=TEACHER._replace(classifier=None))
