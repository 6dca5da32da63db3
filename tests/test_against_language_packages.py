"""Values and gradients of TRL, torchtune, TextBrewer and DistiLLM themselves.

None is a dependency: a test runs where its package is installed. DistiLLM is
no package: the variable KDJAX_DISTILLM names the folder of its source.
torchtune and DistiLLM compute in float32, TRL and TextBrewer keep float64.
"""

import importlib
import importlib.util
import os
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillation, fused, language, methods, nets, ops
from tests.packages import agree, extracted, package

pytestmark = [
  pytest.mark.packages,
  pytest.mark.filterwarnings("ignore"),
]

BATCH, LENGTH, VOCAB = 3, 7, 11
EXACT, SINGLE = 1e-12, 2e-6


def numbers(seed=0):
  """Logits of student and teacher, and labels with prompts and padding."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(2, BATCH, LENGTH, VOCAB)) * 2
  labels = rng.integers(0, VOCAB, (BATCH, LENGTH))
  labels[:, :2] = -100  # the prompt
  labels[1, 5:] = -100  # padding
  return logits[0], logits[1], labels


def torch_side(function, student, *others):
  """The value of a function of torch, and its gradient at the student."""
  torch = package("torch")
  student = torch.tensor(student, requires_grad=True)
  others = [torch.tensor(x) for x in others]
  value = function(student, *others)
  value.backward()
  return value.item(), student.grad.numpy()


def compare(tolerance, theirs, ours, *arrays, constant=None):
  """Value and gradient; `constant` is what the package leaves out."""
  value, gradient = torch_side(theirs, *arrays)
  with jax.enable_x64(True):
    own = jax.jit(jax.value_and_grad(ours))(*map(jnp.asarray, arrays))
    value += 0.0 if constant is None else float(constant)
    gaps = [
      np.max(np.abs(a - b)) / np.max(np.abs(b))
      for a, b in zip(jax.device_get(own), (value, gradient), strict=True)
    ]
  print("largest relative differences:", *(f"{x:.1e}" for x in gaps))
  agree(own[0], value, tolerance)
  agree(own[1], gradient, tolerance)


def token_mean(values, labels):
  """The mean over the tokens that labels do not exclude."""
  return ops.masked_mean(values, labels != -100)


def entropy(teacher, labels):
  """The mean entropy of the teacher, which cross-entropies leave in."""
  p = np.exp(teacher - teacher.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  return -np.sum(p * np.log(p), -1)[labels != -100].mean()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_generalized_jsd_of_trl(beta, temperature):
  trainer = package("trl.experimental.gkd.gkd_trainer").GKDTrainer

  def theirs(student, teacher, labels):
    return trainer.generalized_jsd_loss(
      student, teacher, labels, beta=beta, temperature=temperature
    )

  def ours(student, teacher, labels):
    values = distillation.generalized_jsd_loss(
      student, teacher, beta=beta, temperature=temperature
    )
    return token_mean(values, labels)

  compare(EXACT, theirs, ours, *numbers())


def test_generalized_jsd_of_trl_divides_by_the_tokens_of_all_batches():
  """Two micro-batches and `num_items_in_batch` are one batch here."""
  trainer = package("trl.experimental.gkd.gkd_trainer").GKDTrainer
  torch = package("torch")
  student, teacher, labels = numbers()
  count = int((labels != -100).sum())
  total = sum(
    trainer.generalized_jsd_loss(
      *(torch.tensor(x[part]) for x in (student, teacher, labels)),
      num_items_in_batch=count,
    ).item()
    for part in (slice(0, 1), slice(1, None))
  )
  with jax.enable_x64(True):
    values = distillation.generalized_jsd_loss(student, teacher)
    agree(token_mean(values, jnp.asarray(labels)), total, EXACT)


def gold_config(**changes):
  flags = {
    "uld_crossentropy_weight": 0.0,
    "uld_distillation_weight": 1.0,
    "uld_student_temperature": 1.0,
    "uld_teacher_temperature": 1.0,
    "uld_skip_student_eos": False,
    "uld_skip_teacher_eos": False,
    "use_extended_uld": False,
    "uld_token_merge_strategy": "bayesian",
  }
  return types.SimpleNamespace(**flags | changes)


@pytest.mark.parametrize("strategy", ["bayesian", "observed"])
def test_uld_of_trl(strategy):
  """Answers of different lengths; only "bayesian" shifts the logits."""
  gold = package("trl.experimental.gold.gold_trainer")
  loss = gold.ULDLoss(gold_config(uld_token_merge_strategy=strategy))
  rng = np.random.default_rng(1)
  student = rng.normal(size=(BATCH, LENGTH, VOCAB))
  teacher = rng.normal(size=(BATCH, LENGTH + 2, VOCAB - 3))
  sides = []
  for width, ends in ((LENGTH, (5, 6, 7)), (LENGTH + 2, (8, 9, 4))):
    labels = rng.integers(0, VOCAB - 3, (BATCH, width))
    labels[:, :2] = -100
    for row, end in enumerate(ends):
      labels[row, end:] = -100
    sides.append(labels)

  def theirs(student, teacher, own, others):
    return loss(student, teacher, own, others, own, others)

  def ours(student, teacher, own, others):
    if strategy == "bayesian":
      masks = [language.next_token_targets(x)[1] for x in (own, others)]
    else:
      masks = [x >= 0 for x in (own, others)]
    return jnp.mean(language.uld_loss(student, teacher, *masks))

  compare(EXACT, theirs, ours, student, teacher, *sides)


TORCHTUNE = {
  "ForwardKL": lambda s, t: distillation.symmetric_kl_loss(
    s, t, reverse_weight=0.0
  ),
  "ReverseKL": distillation.reverse_kl_loss,
  "SymmetricKL": lambda s, t: distillation.symmetric_kl_loss(
    s, t, reverse_weight=0.7
  ),
}


def torchtune():
  """The file of its losses; the whole package needs an old torchao."""
  found = importlib.util.find_spec("torchtune")
  if found is None:
    pytest.skip("could not find torchtune")
  package("torch")
  (folder,) = found.submodule_search_locations
  return module_of(pathlib.Path(folder, "modules", "loss", "kd_losses.py"))


def module_of(path):
  """A file as a module."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", list(TORCHTUNE))
def test_divergences_of_torchtune(name, chunked):
  losses = torchtune()
  student, teacher, labels = numbers()
  ratio = {"sym_kd_ratio": 0.3} if name == "SymmetricKL" else {}
  if chunked:
    loss = getattr(losses, f"{name}WithChunkedOutputLoss")(3, **ratio)
  else:
    loss = getattr(losses, f"{name}Loss")(**ratio)

  def theirs(student, teacher, labels):
    if chunked:
      return loss(student.chunk(3, 1), teacher.chunk(3, 1), labels)
    rows = (x.reshape(-1, VOCAB) for x in (student, teacher))
    return loss(*rows, labels)

  def ours(student, teacher, labels):
    return token_mean(TORCHTUNE[name](student, teacher), labels)

  # Its forward KL is a cross-entropy, whose value has the teacher's entropy.
  share = {"ForwardKL": 1.0, "SymmetricKL": 0.3}.get(name, 0.0)
  constant = -share * entropy(teacher, labels)
  arrays = student, teacher, labels
  compare(SINGLE, theirs, ours, *arrays, constant=constant)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_chunked_losses_of_torchtune_beside_the_fused_ones(name):
  """Both are given hidden states and heads, and neither keeps all logits."""
  torch = package("torch")
  losses = torchtune()
  rng = np.random.default_rng(2)
  _, _, labels = numbers()
  hidden = rng.normal(size=(2, BATCH, LENGTH, 5))
  heads = rng.normal(size=(2, VOCAB, 5))
  title = {"forward_kl": "ForwardKL", "reverse_kl": "ReverseKL"}[name]
  loss = getattr(losses, f"{title}WithChunkedOutputLoss")(3)
  own = torch.tensor(hidden[0], requires_grad=True)
  chunks = [
    [x @ torch.tensor(head).T for x in states.chunk(3, 1)]
    for states, head in ((own, heads[0]), (torch.tensor(hidden[1]), heads[1]))
  ]
  value = loss(*chunks, torch.tensor(labels))
  value.backward()

  def ours(states):
    values = fused.fused_linear_divergence(
      states, heads[0], hidden[1], heads[1], divergence=name
    )
    return token_mean(values, jnp.asarray(labels))

  with jax.enable_x64(True):
    got, gradient = jax.jit(jax.value_and_grad(ours))(jnp.asarray(hidden[0]))
  constant = entropy(hidden[1] @ heads[1].T, labels) if name[0] == "f" else 0.0
  agree(got, value.item() - constant, SINGLE)
  agree(gradient, own.grad.numpy(), SINGLE)


def textbrewer(name):
  """A module of TextBrewer; its package imports trainers that need more."""
  found = importlib.util.find_spec("textbrewer")
  if found is None:
    pytest.skip("could not find textbrewer")
  package("torch")
  if "textbrewer_files" not in sys.modules:
    stub = types.ModuleType("textbrewer_files")
    stub.__path__ = list(found.submodule_search_locations)
    sys.modules["textbrewer_files"] = stub
  return importlib.import_module(f"textbrewer_files.{name}")


@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_soft_targets_of_textbrewer(temperature):
  losses = textbrewer("losses")
  student, teacher, labels = numbers()
  labels = np.zeros_like(labels)

  def theirs(student, teacher):
    return losses.kd_ce_loss(student, teacher, temperature)

  def ours(student, teacher):
    values = distillation.soft_target_loss(
      student, teacher, temperature=temperature
    )
    return jnp.mean(values) / temperature**2  # without T^2

  constant = -entropy(teacher / temperature, labels)
  compare(EXACT, theirs, ours, student, teacher, constant=constant)


@pytest.mark.parametrize("kind", ["ce", "mse"])
@pytest.mark.parametrize("scheduler", [None, ["flsw", 0.5, 2.0], ["cwsm", 0.5]])
def test_configurations_of_textbrewer(kind, scheduler):
  """Its distillers select the valid tokens before temperatures and losses."""
  loss = getattr(textbrewer("losses"), f"kd_{kind}_loss")
  temperature = lambda s, t, base: base  # noqa: E731
  if scheduler is not None:
    name, *numbers_of = scheduler
    build = f"{name}_temperature_scheduler_builder"
    temperature = getattr(textbrewer("schedulers"), build)(*numbers_of)
  config = {"kd_loss_type": kind, "temperature_scheduler": scheduler}
  objective = methods.create("textbrewer", config=config).objective

  def theirs(student, teacher, labels):
    student, teacher = (x[labels != -100] for x in (student, teacher))
    return loss(student, teacher, temperature(student, teacher, 4.0))

  def ours(student, teacher, labels):
    roles = {
      "student": nets.Outputs(student, {}, None),
      "teacher": nets.Outputs(teacher, {}, None),
    }
    key, batch = jax.random.key(0), {"mask": labels != -100}
    params, state = objective.init(key, roles)
    return objective.apply(params, state, roles, batch, key)[0]

  compare(EXACT, theirs, ours, *numbers())


def attention(seed=3):
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=(2, BATCH, 4, LENGTH, LENGTH))
  mask = np.ones((BATCH, LENGTH), int)
  mask[1, 4:] = 0
  return scores[0], scores[1], mask


def heads_of(function, combine):
  """A form that adds or averages the heads first."""

  def apply(student, teacher, *rest, **options):
    student, teacher = (
      combine(x, 1, keepdims=True) for x in (student, teacher)
    )
    return function(student, teacher, *rest, **options)

  return apply


ATTENTION = {
  "att_mse_loss": (distillation.attention_mse_loss, -1e-3),
  "att_mse_sum_loss": (
    heads_of(distillation.attention_mse_loss, jnp.sum),
    -1e-3,
  ),
  "att_ce_loss": (distillation.attention_ce_loss, -1e-3),
  "att_ce_mean_loss": (
    heads_of(distillation.attention_ce_loss, jnp.mean),
    -1e-3,
  ),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", list(ATTENTION))
def test_attention_of_textbrewer(name, masked):
  loss = getattr(textbrewer("losses"), name)
  form, cutoff = ATTENTION[name]
  student, teacher, mask = attention()
  if masked:
    compare(EXACT, loss, form, student, teacher, mask)
  else:
    ours = lambda s, t: form(s, t, cutoff=cutoff)  # noqa: E731
    compare(EXACT, loss, ours, student, teacher)


def hidden(width, seed=4):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(2, BATCH, LENGTH, width))


HIDDEN = {
  "hid_mse_loss": distillation.hidden_mse_loss,
  "cos_loss": distillation.cosine_embedding_loss,
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", list(HIDDEN))
def test_hidden_states_of_textbrewer(name, masked):
  loss = getattr(textbrewer("losses"), name)
  arrays = *hidden(5), attention()[2]
  arrays = arrays if masked else arrays[:2]
  # PyTorch adds 1e-12 to each squared norm of a cosine.
  tolerance = 10 * EXACT if name == "cos_loss" else EXACT
  compare(tolerance, loss, HIDDEN[name], *arrays)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["fsp_loss", "mmd_loss"])
def test_pairs_of_layers_of_textbrewer(name, masked):
  loss = getattr(textbrewer("losses"), name)
  width = LENGTH if name == "mmd_loss" and masked else 5
  first, second = hidden(width), hidden(width, 5)
  mask = attention()[2]

  def ours(a, b, c, d, *mask):
    if name == "mmd_loss":
      return language.token_mmd_loss([a, b], [c, d], *mask)
    return jnp.mean(distillation.gram_loss([a, b], [c, d], *mask))

  # With a mask, its mmd_loss divides by the length, not by the width: the
  # widths above are equal to it.
  arrays = first[0], second[0], first[1], second[1]
  arrays = (*arrays, mask) if masked else arrays
  theirs = lambda a, b, c, d, *m: loss([a, b], [c, d], *m)  # noqa: E731
  compare(EXACT, theirs, ours, *arrays)


def test_pkd_of_textbrewer():
  def ours(student, teacher):
    return jnp.mean(distillation.pkd_loss(student, teacher))

  compare(EXACT, textbrewer("losses").pkd_loss, ours, *hidden(5))


def test_temperatures_and_shift_of_textbrewer():
  torch = package("torch")
  schedulers = textbrewer("schedulers")
  student, teacher, labels = numbers()
  rows = student[:, 3], teacher[:, 3]
  tensors = [torch.tensor(x) for x in rows]
  with jax.enable_x64(True):
    flsw = schedulers.flsw_temperature_scheduler_builder(0.5, 2.0)
    expected = flsw(*tensors, 4.0).numpy()
    got = distillation.flsw_temperature(
      *map(jnp.asarray, rows), temperature=4.0, beta=0.5, gamma=2.0
    )
    agree(got, expected, EXACT)
    cwsm = schedulers.cwsm_temperature_scheduler_builder(0.5)
    expected = cwsm(*tensors, 4.0).numpy()
    got = distillation.cwsm_temperature(
      jnp.asarray(rows[0]), temperature=4.0, beta=0.5
    )
    agree(got, expected, EXACT)
  own = labels[:, 3]
  shift = extracted("textbrewer", "distiller_utils.py", "probability_shift_")
  expected = shift(tensors[1].clone(), torch.tensor(own))
  with jax.enable_x64(True):
    got = language.probability_shift(jnp.asarray(rows[1]), jnp.asarray(own))
  agree(got, expected.numpy(), EXACT)


DISTILLM = {
  "forward_kl": (
    1.0,
    lambda s, t: distillation.symmetric_kl_loss(s, t, reverse_weight=0.0),
  ),
  "reverse_kl": (0.0, distillation.reverse_kl_loss),
  "symmetric_kl": (
    0.1,
    lambda s, t: distillation.symmetric_kl_loss(s, t, reverse_weight=0.9),
  ),
  "js_distance": (
    0.0,
    lambda s, t: distillation.generalized_jsd_loss(s, t, beta=0.1),
  ),
  "tv_distance": (0.0, distillation.total_variation_loss),
  "skewed_forward_kl": (1.0, distillation.skew_kl_loss),
  "skewed_reverse_kl": (0.0, distillation.skew_reverse_kl_loss),
}


@pytest.mark.parametrize("name", list(DISTILLM))
def test_divergences_of_distillm(name):
  folder = os.environ.get("KDJAX_DISTILLM")
  if not folder:
    pytest.skip("KDJAX_DISTILLM does not name a folder with DistiLLM's source")
  package("torch")
  path = pathlib.Path(folder) / "distillm" / "losses.py"
  losses = module_of(path)
  share, form = DISTILLM[name]
  arrays = numbers()

  def theirs(student, teacher, labels):
    return getattr(losses, name)(student, teacher, {"label": labels})

  def ours(student, teacher, labels):
    return token_mean(form(student, teacher), labels)

  constant = -share * entropy(arrays[1], arrays[2])
  compare(SINGLE, theirs, ours, *arrays, constant=constant)
