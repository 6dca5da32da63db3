"""docs/other_programs.md: its adapters, and what it says of other programs.

Tunix and Keras are run where they are installed. EasyDeL and MaxText pin other
versions of Flax and bring a whole trainer, so their formulas are written here,
and the functions of the packages are read, without an import, where they lie.
"""

import importlib.util
import os
import pathlib
import sys
import types

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillation, ops
from tests import test_docs
from tests.packages import agree, extracted, package

pytestmark = [
  pytest.mark.packages,
  pytest.mark.filterwarnings("ignore"),
]

PAGE = test_docs.PAGES[test_docs.ELSEWHERE]
BATCH, LENGTH, VOCAB = 3, 6, 9


def adapter(title, capsys=None):
  """Runs the program under a heading; returns its names."""
  section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
  (code,) = (
    code for kind, code in test_docs.blocks(section) if kind == "python"
  )
  namespace = {"__name__": "page"}
  exec(compile(code, f"page, {title}", "exec"), namespace)
  if capsys:
    printed = capsys.readouterr().out.splitlines()
    assert printed == test_docs.shown_by(code)
  return types.SimpleNamespace(**namespace)


def numbers(seed=0, dtype=np.float32):
  """Logits, tokens, and a mask of a prompt and of padding on the right."""
  rng = np.random.default_rng(seed)
  student, teacher = rng.normal(size=(2, BATCH, LENGTH, VOCAB)) * 2
  tokens = rng.integers(0, VOCAB, (BATCH, LENGTH))
  mask = np.ones((BATCH, LENGTH), bool)
  mask[:, 0] = False
  mask[1, 4:] = False
  return student.astype(dtype), teacher.astype(dtype), tokens, mask


def softmax(x):
  p = np.exp(x - x.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def kd(student, teacher, labels, temperature, alpha):
  """Knowledge distillation of each row, in NumPy."""
  p, q = softmax(teacher / temperature), softmax(student / temperature)
  soft = np.sum(p * np.log(p / q), -1) * temperature**2
  own = np.take_along_axis(softmax(student), labels[..., None], -1)
  return alpha * soft - (1 - alpha) * np.log(own[..., 0])


def shifted(mask):
  """The positions whose next token counts."""
  return np.pad(mask[:, 1:], ((0, 0), (0, 1)))


def tunix():
  """The strategies of Tunix; the whole package imports trainers of RL."""
  if "tunix" not in sys.modules:
    found = importlib.util.find_spec("tunix")
    if found is None:
      pytest.skip("could not find tunix")
    for name in ("tunix", "tunix.distillation"):
      stub = types.ModuleType(name)
      root = pathlib.Path(found.submodule_search_locations[0])
      stub.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
      sys.modules[name] = stub
  return package("tunix.distillation.strategies")


class Table(nnx.Module):
  """The logits of a token are a row of a table."""

  def __init__(self, logits):
    self.logits = nnx.Param(jnp.asarray(logits))

  def __call__(self, tokens):
    return self.logits[tokens]


def test_tunix():
  """A strategy of its own base class, from networks to gradients."""
  tunix()
  strategy = adapter("Tunix").strategy
  _, _, tokens, mask = numbers()
  rng = np.random.default_rng(1)
  tables = rng.normal(size=(2, VOCAB, VOCAB)).astype(np.float32)
  student, teacher = Table(tables[0]), Table(tables[1])
  inputs = {
    "input_tokens": jnp.asarray(tokens),
    "input_mask": jnp.asarray(mask),
  }

  outputs = strategy.get_teacher_outputs(teacher, inputs)

  def value(student):
    return strategy.get_train_loss(student, outputs, inputs)[0]

  loss, gradient = nnx.value_and_grad(value)(student)
  where = shifted(mask) & mask
  labels = np.where(where, np.pad(tokens[:, 1:], ((0, 0), (0, 1))), 0)
  rows = kd(tables[0][tokens], tables[1][tokens], labels, 2.0, 0.5)
  agree(loss, rows[where].mean(), 1e-6)
  assert all(np.abs(x).sum() > 0 for x in jax.tree.leaves(gradient))
  found, _ = strategy.get_eval_loss(student, inputs)
  rows = kd(tables[0][tokens], tables[0][tokens], labels, 2.0, 0.0)
  agree(found, rows[where].mean(), 1e-6)


def test_the_logits_of_tunix_have_no_mask():
  """Without padding it is kdjax's figure; with padding, positions count."""
  strategies = tunix()
  theirs = strategies.LogitStrategy(len, len, len, temperature=2.0, alpha=0.5)
  student, teacher, tokens, mask = numbers()
  hot = np.eye(VOCAB, dtype=np.float32)[tokens]
  loss = theirs.compute_loss(student, teacher, hot)[0]
  rows = distillation.kd_loss(
    *map(jnp.asarray, (student, teacher, tokens)), temperature=2.0, alpha=0.5
  )
  agree(loss, jnp.mean(rows), 1e-6)
  # Zero labels take out the cross-entropy of padding; the divisor stays.
  hot *= mask[..., None]
  own = theirs.compute_eval_loss(student, hot)[0]
  print(f"Tunix {float(own):.4f} where {mask.mean():.3f} of positions count")
  plain = distillation.kd_loss(
    *map(jnp.asarray, (student, teacher, tokens)), alpha=0.0
  )
  agree(own, ops.masked_mean(plain, jnp.asarray(mask)) * mask.mean(), 1e-6)


def test_the_tail_of_the_top_k_of_tunix_has_no_gradient():
  strategies = tunix()
  theirs = strategies.LogitStrategy(len, len, len, alpha=1.0, distill_top_k=3)
  student, teacher, tokens, _ = numbers()
  hot = np.eye(VOCAB, dtype=np.float32)[tokens]
  gradient = jax.grad(lambda x: theirs.compute_loss(x, teacher, hot)[0])(
    jnp.asarray(student)
  )
  assert ((gradient != 0).sum(-1) <= 3).all()


def keras():
  os.environ.setdefault("KERAS_BACKEND", "jax")
  module = package("keras")
  if module.backend.backend() != "jax":
    pytest.skip("Keras has another backend than jax")
  return module


def test_keras(capsys):
  keras()
  with jax.numpy_rank_promotion("allow"):
    page = adapter("Keras", capsys)
  student, teacher, _, _ = numbers()
  loss = page.Divergence(distillation.generalized_jsd_loss, beta=0.1)
  expected = distillation.generalized_jsd_loss(
    jnp.asarray(student), jnp.asarray(teacher), beta=0.1
  )
  agree(loss.compute_loss(teacher, student), jnp.mean(expected), 1e-6)


def test_keras_clips_probabilities():
  """Its divergence is kdjax's on flat logits; on sharp ones it is bounded."""
  module = keras()
  theirs = module.distillation.LogitsDistillation(
    temperature=2.0, loss=module.losses.KLDivergence()
  )
  student, teacher, _, _ = numbers()

  def ours(student, teacher):
    return jnp.mean(
      distillation.soft_target_loss(
        jnp.asarray(student), jnp.asarray(teacher), temperature=2.0
      )
    )

  agree(theirs.compute_loss(teacher, student), ours(student, teacher), 1e-5)
  sharp = 30 * student, 30 * teacher
  exact = np.mean(kd(*(x.astype(float) for x in sharp),
                     np.zeros((BATCH, LENGTH), int), 2.0, 1.0))  # fmt: skip
  agree(ours(*sharp), exact, 1e-5)
  clipped = float(theirs.compute_loss(sharp[1], sharp[0]))
  print(f"Keras {clipped:.2f}, exact {exact:.2f}")
  assert clipped < 0.9 * exact
  assert clipped <= 4 * -np.log(1e-7) * 1.01


def test_the_default_of_keras_takes_logits_for_probabilities():
  """The name of its default loss is that of a function, not of a class."""
  theirs = keras().distillation.LogitsDistillation(temperature=2.0)
  student, teacher, _, _ = numbers()
  a, b = (np.clip(x / 2, 1e-7, 1) for x in (teacher, student))
  expected = np.mean(np.sum(a * np.log(a / b), -1))
  found = theirs.compute_loss(teacher, student)
  agree(found, expected, 1e-5)
  right = np.mean(
    kd(student, teacher, np.zeros((BATCH, LENGTH), int), 2.0, 1.0)
  )
  print(f"Keras' default {float(found):.2f}, its divergence {right:.2f}")
  assert abs(found - right) > right


def easydel_jsd(student, teacher, mask, beta):
  """EasyDeL's formula: the ends and the weights of the mixture swapped."""
  p, q = softmax(teacher), softmax(student)

  def kl(a, b):
    return np.sum(a * np.log(a / b), -1)

  if beta <= 0:
    rows = kl(q, p)
  elif beta >= 1:
    rows = kl(p, q)
  else:
    middle = (1 - beta) * p + beta * q
    rows = beta * kl(p, middle) + (1 - beta) * kl(q, middle)
  return np.sum(rows * mask) / mask.sum()


def easydel_function(name, *helpers):
  path = {
    "generalized_jsd_loss": "generalized_knowledge_distillation_trainer",
    "distillation_loss": "distillation_trainer",
  }[name]
  return extracted("easydel", f"trainers/{path}/_fn.py", *helpers, name)


BETAS = (0.0, 0.1, 0.5, 1.0)


@pytest.mark.parametrize("beta", BETAS)
def test_easydel(beta):
  """The adapter has the paper's beta, and masks of the tokens shift."""
  student, teacher, tokens, mask = numbers()
  page = adapter("EasyDeL")
  labels = jnp.asarray(np.where(mask, tokens, -100))
  for arguments in ({"labels": labels}, {"mask": jnp.asarray(mask)}):
    found = jax.jit(page.generalized_jsd_loss)(
      jnp.asarray(student), jnp.asarray(teacher), beta=beta, **arguments
    )
    where = shifted(mask)
    rows = distillation.generalized_jsd_loss(
      jnp.asarray(student, float), jnp.asarray(teacher, float), beta=beta
    )
    agree(found, np.asarray(rows)[where].mean(), 1e-6)
  # Its own figure, from the same arrays.
  theirs = easydel_jsd(student.astype(float), teacher.astype(float), mask, beta)
  print(f"beta {beta}: EasyDeL {theirs:.4f}, kdjax {float(found):.4f}")
  assert abs(theirs - float(found)) > 1e-2 * theirs
  if beta in (0.0, 1.0):
    swapped = distillation.generalized_jsd_loss(
      jnp.asarray(student), jnp.asarray(teacher), beta=1 - beta
    )
    agree(ops.masked_mean(swapped, jnp.asarray(mask)), theirs, 1e-5)


@pytest.mark.parametrize("beta", BETAS)
def test_the_formula_of_easydel_is_that_of_its_source(beta):
  loss = easydel_function("generalized_jsd_loss", "_kl_div")
  student, teacher, _, mask = numbers()
  found = loss(
    jnp.asarray(student),
    jnp.asarray(teacher),
    mask=jnp.asarray(mask),
    beta=beta,
  )
  expected = easydel_jsd(
    student.astype(float), teacher.astype(float), mask, beta
  )
  agree(found, expected, 1e-5)


def close_pair():
  """Logits in bfloat16 of two distributions whose divergence is small."""
  rng = np.random.default_rng(0)
  student = rng.normal(size=(4, 64, 32_000))
  teacher = student + 0.2 * rng.normal(size=student.shape)
  pair = [jnp.asarray(x, jnp.bfloat16) for x in (student, teacher)]
  exact = kd(*(np.asarray(x, float) for x in pair),
             np.zeros((4, 64), int), 1.0, 1.0).mean()  # fmt: skip
  return *pair, exact


def test_bfloat16_of_easydel_and_of_kdjax():
  """It subtracts an entropy from a cross-entropy that are both rounded."""
  student, teacher, exact = close_pair()
  ours = jnp.mean(
    distillation.soft_target_loss(student, teacher, temperature=1.0)
  )
  assert abs(ours - exact) < 1e-3 * exact
  # The rows of its sums, as its formula rounds them.
  wide = [np.asarray(x, float) for x in (student, teacher)]
  p, q = softmax(wide[1]), softmax(wide[0])
  crossed = jnp.asarray(-np.sum(p * np.log(q), -1), jnp.bfloat16)
  own = jnp.asarray(-np.sum(p * np.log(p), -1), jnp.bfloat16)
  rounded = float(jnp.mean(crossed) - jnp.mean(own))
  print(f"exact {exact:.5f}, kdjax {ours:.5f}, rounded {rounded:.5f}")
  assert abs(rounded - exact) > 0.2 * exact


def test_the_bfloat16_of_easydel_is_that_of_its_source():
  loss = easydel_function("distillation_loss", "_per_token_xent")
  student, teacher, exact = close_pair()
  found, _ = loss(student, teacher, temperature=1.0, alpha=1.0)
  print(f"exact {exact:.5f}, EasyDeL {float(found):.5f}")
  assert abs(float(found) - exact) > 0.2 * exact


def maxtext(student, teacher, labels, temperature, alpha):
  """MaxText's figure: one-hot labels, zero where nothing counts."""
  where = np.any(labels != 0, -1)
  rows = kd(student, teacher, labels.argmax(-1), temperature, alpha)
  return rows[where].mean()


def outputs(logits):
  return types.SimpleNamespace(
    logits=jnp.asarray(logits),
    out_projection_activations=None,
    moe_lb_loss=None,
    top_k_indices=None,
  )


def schedules():
  """The attributes of a strategy that its method reads."""
  return types.SimpleNamespace(
    _get_scheduled_weights=lambda step: (0.3, 2.5, 0.0), beta_feature=0.0
  )


def hot_labels(tokens, mask):
  return (np.eye(VOCAB)[tokens] * mask[..., None]).astype(np.float32)


def test_maxtext():
  student, teacher, tokens, mask = numbers()
  page, labels = adapter("MaxText"), hot_labels(tokens, mask)

  def value(student):
    return page.compute_loss(
      schedules(), outputs(student), outputs(teacher), jnp.asarray(labels)
    )

  loss, metrics = jax.jit(value)(student)
  expected = maxtext(
    student.astype(float), teacher.astype(float), labels, 2.5, 0.3
  )
  agree(loss, expected, 1e-6)
  total, count = metrics["distill/total_loss"]
  agree(total / count, expected, 1e-6)
  assert count == mask.sum()


def test_maxtext_is_that_of_its_source():
  names = {}
  if importlib.util.find_spec("maxtext") is not None:
    metrics = (
      "SOFT_LOSS HARD_LOSS TEACHER_LOSS STUDENT_PERPLEXITY TEACHER_PERPLEXITY"
      " KL_DIV_AT_T KL_DIV_T1 OUT_PROJ_FEATURE_LOSS MOE_LB_LOSS"
      " TEACHER_MOE_LB_LOSS TOTAL_LOSS TEMPERATURE ALPHA BETA_FEATURE"
    )
    names = {f"METRIC_{x}": x for x in metrics.split()}
  path = "trainers/post_train/distillation/distillation_utils.py"
  loss = extracted("maxtext", path, "compute_loss", _PPL_CE_CAP=20.0, **names)
  student, teacher, tokens, mask = numbers()
  labels = hot_labels(tokens, mask)
  found, _ = loss(
    schedules(), outputs(student), outputs(teacher), jnp.asarray(labels)
  )
  expected = maxtext(
    student.astype(float), teacher.astype(float), labels, 2.5, 0.3
  )
  agree(found, expected, 1e-6)
  # A masked class has the probability 0 on both sides, and no figure there.
  student[..., 0] = teacher[..., 0] = -np.inf
  labels[..., 0] = 0
  found, _ = loss(
    schedules(), outputs(student), outputs(teacher), jnp.asarray(labels)
  )
  own, _ = adapter("MaxText").compute_loss(
    schedules(), outputs(student), outputs(teacher), jnp.asarray(labels)
  )
  assert np.isfinite(own)
  assert not np.isfinite(found)
