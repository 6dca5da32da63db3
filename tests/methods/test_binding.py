"""Names of arguments: what each kind stands for, and what errors say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.methods import _binding, stateless
from kdjax.nets import Outputs


def outputs(seed, **fields):
  logits, low, high = np.random.default_rng(seed).normal(size=(3, 4, 5))
  features = {"f0": low, "f1": high}
  return Outputs(
    *jax.tree.map(jnp.float32, (logits, features, logits + low)), **fields
  )


STUDENT = outputs(
  0,
  preactivations={"f0": jnp.ones(4)},
  normalizations={"f0": (jnp.ones(2), jnp.ones(2))},
  attention={"f0": jnp.ones((4, 1, 2, 2))},
  classifier=(jnp.ones((5, 5)), jnp.ones(5)),
  params={"kernel": jnp.ones(3)},
)
ROLES = {
  "student": STUDENT,
  "teacher": outputs(1),
  "student_strong": outputs(2),
  "past": outputs(3),
}
BATCH = {
  "label": jnp.array([0, 1, 2, 3]),
  "mask": jnp.ones(4, bool),
  "index": jnp.arange(4),
  "attention_masks": jnp.zeros((4, 2)),
}
DOMAINS = {
  "source": outputs(4),
  "target": outputs(5),
  "target_strong": outputs(6),
}
PARTS = {
  "source": {"label": jnp.zeros(4, int), "mask": jnp.ones(4, bool)},
  "target": {"mask": jnp.arange(4) < 2, "weight": jnp.arange(4.0)},
}


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("student", STUDENT),
    ("student_logits", STUDENT.logits),
    ("logits", STUDENT.logits),
    ("embeddings", STUDENT.embedding),
    ("student_embedding", STUDENT.embedding),
    ("teacher_embeddings", ROLES["teacher"].embedding),
    ("student_features", STUDENT.features),
    ("student_features.f0", STUDENT.features["f0"]),
    ("teacher_hidden", ROLES["teacher"].features["f1"]),
    ("student_preactivations", STUDENT.preactivations),
    ("student_preactivations.f0", STUDENT.preactivations["f0"]),
    ("student_normalizations", STUDENT.normalizations),
    ("student_attention.f0", STUDENT.attention["f0"]),
    ("student_classifier", STUDENT.classifier),
    ("student_params", STUDENT.params),
    ("student_strong", ROLES["student_strong"]),
    ("student_strong_logits", ROLES["student_strong"].logits),
    ("past_logits", ROLES["past"].logits),
    ("labels", BATCH["label"]),
    ("label", BATCH["label"]),
    ("student_labels", BATCH["label"]),
    ("mask", BATCH["mask"]),
    ("index", BATCH["index"]),
    ("attention_masks", BATCH["attention_masks"]),
  ],
)
def test_names_of_one_batch(name, expected):
  got = _binding.resolve("mine", name, ROLES, BATCH)
  jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("source_logits", DOMAINS["source"].logits),
    ("logits", DOMAINS["source"].logits),
    ("target_embeddings", DOMAINS["target"].embedding),
    ("target_strong_logits", DOMAINS["target_strong"].logits),
    ("source_labels", PARTS["source"]["label"]),
    ("labels", PARTS["source"]["label"]),
    ("target_weight", PARTS["target"]["weight"]),
    ("target_weights", PARTS["target"]["weight"]),
    ("target_strong_weights", PARTS["target"]["weight"]),
    ("target_mask", PARTS["target"]["mask"]),
  ],
)
def test_names_of_two_domains(name, expected):
  got = _binding.resolve("mine", name, DOMAINS, PARTS)
  np.testing.assert_array_equal(got, expected)


def test_probabilities_are_those_of_the_logits_in_float32():
  half = STUDENT._replace(logits=STUDENT.logits.astype(jnp.bfloat16))
  got = _binding.resolve("mine", "student_probabilities", {"student": half}, {})
  assert got.dtype == jnp.float32
  exact = jax.nn.softmax(half.logits.astype(jnp.float32))
  np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("slack", r"mine reads 'slack', which is none of the roles \['past', 'stu"),
    ("slack", r"no entry of the batch \['attention_masks', 'index', 'label', "),
    ("slack", "Rename the argument, or say what it reads: stateless"),
    ("student_logit", "mine reads 'student_logit', which is none of the roles"),
    ("student_weak_logits", "Expected the view 'weak' of the student's exampl"),
    ("average_logits", "Expected an average: give the optimizer"),
    ("student_features.f9", r"student.features has \['f0', 'f1'\]; .*'f9'"),
    (
      "teacher_classifier",
      "teacher has no classifier; expected a network that",
    ),
  ],
)
def test_errors_say_what_a_name_could_be(name, words):
  with pytest.raises(ValueError, match=words):
    _binding.resolve("mine", name, ROLES, BATCH)


def test_a_missing_teacher_is_named():
  def mine(student_logits, teacher_logits):
    return student_logits - teacher_logits

  roles = {"student": STUDENT}
  with pytest.raises(
    ValueError, match=r"mine reads .*Expected a teacher: give"
  ):
    stateless(mine).apply({}, {}, roles, BATCH, jax.random.key(0))
  with pytest.raises(ValueError, match="Expected a teacher: give the learner"):
    _binding.resolve("mine", "teacher", roles, BATCH)


def test_positional_parameters_without_a_default_are_bound():
  def function(student_logits, labels, power=2, *rest, scale, where=None):
    return student_logits, labels, power

  bound = _binding.arguments_of(function, ROLES, BATCH)
  np.testing.assert_array_equal(bound[0], STUDENT.logits)
  np.testing.assert_array_equal(bound[1], BATCH["label"])
  assert len(bound) == 2
  (labels,) = _binding.arguments_of(function, ROLES, BATCH, skip=1)
  np.testing.assert_array_equal(labels, BATCH["label"])


def test_the_whole_batch_and_all_roles_have_names():
  function = lambda batch, outputs, rngs: None  # noqa: E731
  batch, roles, rngs = _binding.arguments_of(
    function, ROLES, BATCH, known={"rngs": 7}
  )
  assert batch is BATCH
  assert roles is ROLES
  assert rngs == 7


class Module(nnx.Module):
  """What reads an embedding."""

  def __init__(self, width, student_embeddings, rngs):
    self.width = width


@pytest.mark.parametrize(
  ("function", "names"),
  [
    (Module, ["width", "student_embeddings", "rngs"]),
    (functools.partial(Module, 3), ["student_embeddings", "rngs"]),
    (functools.partial(lambda a, b: a, 1), ["b"]),
    (functools.partial(lambda a, b: a, b=1), ["a"]),
  ],
)
def test_classes_and_partial_functions_have_parameters_too(function, names):
  assert _binding.parameter_names(function) == names


@pytest.mark.parametrize(
  ("names", "role"),
  [
    (("target_logits",), "target"),
    (("labels", "target_logits"), "target"),
    (("target",), "target"),
    (("target_strong_logits", "source_logits"), "target_strong"),
    (("logits", "labels"), "source"),
  ],
)
def test_the_first_role_is_whose_examples_count(names, role):
  assert _binding.first_role(names, DOMAINS) == role


def test_a_loss_of_the_target_counts_the_targets_examples():
  def mine(target_logits):
    return jnp.sum(target_logits, -1)

  loss, _, metrics = stateless(mine).apply(
    {}, {}, DOMAINS, PARTS, jax.random.key(0)
  )
  values = np.sum(DOMAINS["target"].logits, -1)[:2]
  np.testing.assert_allclose(loss, values.mean(), rtol=1e-6)
  assert metrics["loss"][1] == 2


@pytest.mark.parametrize(
  "select",
  [
    ("teacher_logits", "student_logits"),
    lambda student, teacher: (teacher.logits, student.logits),
    lambda teacher_logits, student_logits: (teacher_logits, student_logits),
  ],
)
def test_a_selector_overrides_the_names(select):
  def mine(student_logits, teacher_logits):
    return jnp.sum(student_logits - 2 * teacher_logits, -1)

  key = jax.random.key(0)
  loss, *_ = stateless(mine, select).apply({}, {}, ROLES, BATCH, key)
  student, teacher = STUDENT.logits, ROLES["teacher"].logits
  expected = np.sum(teacher - 2 * student, -1).mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_selector_of_one_name_may_be_a_word():
  def mine(x):
    return jnp.sum(x, -1)

  key = jax.random.key(0)
  loss, *_ = stateless(mine, "teacher_logits").apply({}, {}, ROLES, BATCH, key)
  expected = np.sum(ROLES["teacher"].logits, -1).mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
