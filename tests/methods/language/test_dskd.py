"""DSKD in both spaces, and its attention between two tokenizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.methods.language._dskd import _dskd
from kdjax.methods.language._dskd_cma import _dskd_cma
from kdjax.nets import Outputs

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
VOCABS, WIDTHS, LENGTHS = (7, 9), (3, 4), (5, 6)


def draw(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def role(i):
  kernel = draw(WIDTHS[i], VOCABS[i])
  hidden = draw(2, LENGTHS[i], WIDTHS[i])
  return Outputs(
    jnp.asarray(hidden @ kernel),
    {},
    jnp.asarray(hidden),
    classifier=(jnp.asarray(kernel), jnp.zeros(VOCABS[i])),
    token_embeddings=jnp.asarray(draw(VOCABS[i], WIDTHS[i])),
  )


ROLES = {"student": role(0), "teacher": role(1)}
BATCH = {
  f"{prefix}{name}": jnp.asarray(value)
  for i, prefix in enumerate(("", "teacher_"))
  for name, value in (
    ("tokens", RNG.integers(0, VOCABS[i], (2, LENGTHS[i]))),
    ("label", RNG.integers(0, VOCABS[i], (2, LENGTHS[i]))),
    ("mask", np.arange(LENGTHS[i]) < np.array([[LENGTHS[i] - 1], [3]])),
  )
}


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl(p, q):
  p, q = log_softmax(p), log_softmax(q)
  return (np.exp(p) * (p - q)).sum(-1)


def hard(logits, labels):
  return -np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]


def parts_of(params):
  def apply(name, x):
    part = jax.tree.map(np.float64, params[name])
    return np.float64(x) @ part["kernel"] + part["bias"]

  return apply


@pytest.mark.slow
def test_both_spaces_equal_an_oracle():
  teacher = ROLES["teacher"]._replace(
    logits=jnp.asarray(draw(2, 5, 7)),
    embedding=jnp.asarray(draw(2, 5, 4)),
    classifier=(jnp.asarray(draw(4, 7)), jnp.zeros(7)),
  )
  roles = ROLES | {"teacher": teacher}
  objective = _dskd()
  params, state = objective.init(KEY, roles)
  run = jax.jit(
    jax.value_and_grad(
      lambda params: objective.apply(params, state, roles, BATCH, KEY)[0]
    )
  )
  value, gradient = run(params)
  apply = parts_of(params)
  student, labels = ROLES["student"], np.asarray(BATCH["label"])
  toward = apply("t2s", teacher.embedding) @ np.asarray(student.classifier[0])
  back = apply("s2t", student.embedding) @ np.asarray(teacher.classifier[0])
  values = (
    hard(toward, labels)
    + kl(toward, np.asarray(student.logits))
    + kl(np.asarray(teacher.logits), back)
  )
  np.testing.assert_allclose(
    value, values[np.asarray(BATCH["mask"])].mean(), rtol=1e-4
  )
  for leaf in jax.tree.leaves(gradient):
    assert np.any(leaf != 0)


@pytest.mark.slow
def test_attention_between_tokenizers_equals_an_oracle():
  objective = _dskd_cma()
  params, state = objective.init(KEY, ROLES)
  value, _, _ = jax.jit(objective.apply)(params, state, ROLES, BATCH, KEY)
  apply = parts_of(params)
  (student, where), (teacher, teacher_where) = (
    (ROLES[name], np.asarray(BATCH[f"{prefix}mask"]))
    for name, prefix in (("student", ""), ("teacher", "teacher_"))
  )
  labels = np.asarray(BATCH["label"])

  def embedded(outputs, prefix, valid):
    table = np.float64(outputs.token_embeddings)
    inputs, targets = (
      table[np.asarray(BATCH[f"{prefix}{name}"])]
      for name in ("tokens", "label")
    )
    both = np.concatenate([inputs, targets], -1)
    return both / both[valid].std(), targets / targets[valid].std(), both

  keys, targets, _ = embedded(teacher, "teacher_", teacher_where)
  _, _, queries = embedded(student, "", where)
  hidden = np.float64(teacher.embedding)
  values = hidden / hidden[teacher_where].std() + targets
  total = 0.0
  for row in range(2):
    mine, theirs = where[row], teacher_where[row]
    scores = apply("query", queries[row, mine]) @ keys[row, theirs].T
    scores /= np.sqrt(2 * WIDTHS[1])
    weights = np.exp(log_softmax(scores))
    toward = (
      weights
      @ apply("t2s", values[row, theirs])
      @ np.asarray(student.classifier[0])
    )
    right = toward.argmax(-1) == labels[row, mine]
    total += hard(toward, labels[row, mine]).sum()
    total += (right * kl(toward, np.asarray(student.logits)[row, mine])).sum()
    weights = np.exp(log_softmax(scores.T))
    ours = apply("s2t", np.asarray(student.embedding)[row, mine])
    back = weights @ ours @ np.asarray(teacher.classifier[0])
    total += kl(np.asarray(teacher.logits)[row, theirs], back).sum()
  np.testing.assert_allclose(value, total / where.sum(), rtol=1e-4)


def test_projected_logits_have_the_soft_cap_of_their_head():
  """Gemma 2's: by identical maps, own states give own logits, so KLs are 0."""
  cap = 0.5
  capped = ROLES["student"]._replace(
    logits=cap * jnp.tanh(ROLES["student"].logits / cap),
    logit_softcap=jnp.float32(cap),
  )
  roles = {"student": capped, "teacher": capped}
  objective = _dskd()
  params, state = jax.eval_shape(objective.init, KEY, roles)
  params = jax.tree.map(
    lambda x: np.float32(np.eye(3) if x.ndim == 2 else np.zeros(x.shape)),
    params,
  )
  state = jax.tree.map(lambda x: np.ones(x.shape, np.float32), state)
  value, _, _ = jax.jit(objective.apply)(params, state, roles, BATCH, KEY)
  expected = hard(np.asarray(capped.logits), np.asarray(BATCH["label"]))
  np.testing.assert_allclose(
    value, expected[np.asarray(BATCH["mask"])].mean(), rtol=1e-5
  )


def test_a_network_without_a_head_is_named():
  bare = ROLES | {"teacher": ROLES["teacher"]._replace(classifier=None)}
  with pytest.raises(ValueError, match="teacher has no head of tokens"):
    _dskd().init(KEY, bare)
  bare = ROLES | {"student": ROLES["student"]._replace(token_embeddings=None)}
  with pytest.raises(ValueError, match="student has no token_embeddings"):
    _dskd_cma().init(KEY, bare)
  with pytest.raises(ValueError, match="divergence is 'tv'"):
    _dskd(divergence="tv")
