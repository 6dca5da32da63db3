"""TextBrewer's matches and configuration, against sums of the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillation, language, methods
from kdjax.methods.language._textbrewer import _textbrewer
from kdjax.nets import Outputs

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def draw(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def outputs(width, depth):
  """Of a transformer with two heads, on three texts of four tokens."""
  return Outputs(
    draw(3, 5),
    {f"f{i}": draw(3, 4, width) for i in range(depth + 1)},
    None,
    scores={f"f{i + 1}": draw(3, 2, 4, 4) for i in range(depth)},
  )


ROLES = {"student": outputs(3, 2), "teacher": outputs(6, 4)}
MASK = np.arange(4) < np.array([[4], [2], [3]])
BATCH = {
  "mask": jnp.array([True, True, False]),
  "label": jnp.array([0, -100, 2]),
  "attention_mask": jnp.asarray(MASK),
}
MATCHES = [
  {
    "layer_T": 2,
    "layer_S": 1,
    "feature": "hidden",
    "loss": "hidden_mse",
    "weight": 2,
    "proj": ["tanh", 3, 6],
  },
  {
    "layer_T": 4,
    "layer_S": 2,
    "feature": "attention",
    "loss": "attention_mse_sum",
    "weight": 0.5,
  },
  {
    "layer_T": 4,
    "layer_S": 2,
    "feature": "attention",
    "loss": "attention_ce_mean",
  },
  {
    "layer_T": [0, 4],
    "layer_S": [0, 2],
    "feature": "hidden",
    "loss": "mmd",
    "weight": 3,
  },
  {
    "layer_T": [2, 2],
    "layer_S": [1, 1],
    "feature": "hidden",
    "loss": "gram",
    "proj": ["linear"],
  },
]


@pytest.mark.slow
def test_matches_are_the_weighted_sum_of_their_losses():
  objective = methods.intermediate_matches(MATCHES)
  params, state = objective.init(KEY, ROLES)
  value, _, metrics = jax.jit(objective.apply)(params, state, ROLES, BATCH, KEY)
  student, teacher = ROLES["student"], ROLES["teacher"]
  options = {"where": BATCH["mask"]}
  first, last = (params["projectors"][i] for i in (0, 1))
  hidden, score = student.features, student.scores

  @jax.jit
  def expected():
    def project(part, x):
      return x @ part["kernel"] + part["bias"][None, None]

    matches = distillation.hidden_mse_loss(
      jnp.tanh(project(first, hidden["f1"])),
      teacher.features["f2"],
      MASK,
      **options,
    )
    sums = [
      x.sum(1, keepdims=True) for x in (score["f2"], teacher.scores["f4"])
    ]
    total = 2 * matches + 0.5 * distillation.attention_mse_loss(
      *sums, MASK, **options
    )
    means = [x / 2 - 1e4 * (1 - MASK)[:, None, None, :] for x in sums]
    total += distillation.attention_ce_loss(*means, MASK, **options)
    total += 3 * language.token_mmd_loss(
      [hidden["f0"], hidden["f2"]],
      [teacher.features["f0"], teacher.features["f4"]],
      MASK,
      **options,
    )
    gram = distillation.gram_loss(
      [project(last, hidden["f1"])] * 2, [teacher.features["f2"]] * 2, MASK
    )
    return total + gram[:2].mean()

  np.testing.assert_allclose(value, expected(), rtol=1e-5)
  np.testing.assert_allclose(
    metrics["loss"][0] / metrics["loss"][1], value, rtol=1e-5
  )


def test_similarities_of_tokens_are_those_of_a_loop():
  student, teacher = np.asarray(draw(2, 4, 3)), np.asarray(draw(2, 4, 5))
  total = 0.0
  for i, n in enumerate((4, 2)):
    a, b = (x[i, :n] @ x[i, :n].T / x.shape[-1] for x in (student, teacher))
    total += np.square(a - b).sum()
  np.testing.assert_allclose(
    language.token_mmd_loss([student] * 2, [teacher] * 2, MASK[:2]),
    total / (16 + 4),
    rtol=1e-5,
  )


def run(objective, roles, batch, *, step=0):
  params, state = objective.init(KEY, roles)
  state = state | {"step": state["step"] + step}
  value, _, metrics = jax.jit(objective.apply)(params, state, roles, batch, KEY)
  return value, {k: s / n for k, (s, n) in metrics.items()}


def flsw(student, teacher):
  cosine = (student * teacher).sum(-1) / (
    (np.linalg.norm(student, axis=-1) + 1e-4)
    * (np.linalg.norm(teacher, axis=-1) + 1e-4)
  )
  return np.square(1 - cosine)


def cwsm(student, teacher):
  del teacher
  likely = np.exp(student) / np.exp(student).sum(-1, keepdims=True)
  return 1 / (likely.max(-1) + 1e-3)


def soft(student, teacher, scale):
  p, q = (
    np.exp(x / scale) / np.exp(x / scale).sum(-1, keepdims=True)
    for x in (teacher, student)
  )
  return -(p * np.log(q)).sum(-1)


def squared(student, teacher, scale):
  return np.square((student - teacher) / scale).mean(-1)


def test_a_configuration_is_the_sum_of_its_parts():
  config = {
    "temperature": 8,
    "hard_label_weight": 0.3,
    "kd_loss_weight_scheduler": "linear_decay",
    "probability_shift": True,
    "temperature_scheduler": ["flsw", 1, 2],
    "intermediate_matches": MATCHES[1:2],
  }
  objective = _textbrewer(config, steps=10)
  batch = BATCH | {"label": jnp.array([0, 1, 2])}
  value, parts = run(objective, ROLES, batch, step=4)
  np.testing.assert_allclose(
    value,
    0.6 * parts["kd/loss"] + 0.3 * parts["ce/loss"] + parts["matches/loss"],
    rtol=1e-5,
  )
  student, teacher = (
    np.float64(ROLES[k].logits) for k in ("student", "teacher")
  )
  for row, label in enumerate((0, 1, 2)):
    top = teacher[row].argmax()
    teacher[row, [label, top]] = teacher[row, [top, label]]
  weights = flsw(student, teacher)
  # The third row is padding: it enters neither the loss nor the mean weight.
  scale = (8 + weights[:2].mean() - weights)[:, None]
  np.testing.assert_allclose(
    parts["kd/loss"], soft(student, teacher, scale)[:2].mean(), rtol=1e-4
  )


@pytest.mark.parametrize(
  ("kind", "scheduler"),
  [
    ("mse", ["cwsm", 0.5]),
    pytest.param("mse", ["flsw", 0.5, 2], marks=pytest.mark.slow),
    pytest.param("mse", None, marks=pytest.mark.slow),
    pytest.param("ce", ["cwsm", 0.5], marks=pytest.mark.slow),
    pytest.param("ce", ["flsw", 0.5, 2], marks=pytest.mark.slow),
    pytest.param("ce", None, marks=pytest.mark.slow),
  ],
)
def test_soft_losses_at_each_temperature_count_valid_tokens(kind, scheduler):
  """Of texts `[batch, length, vocab]`, whose padding has huge logits."""
  mask = np.arange(3) < np.array([[3], [1]])
  logits = np.float32(RNG.normal(size=(2, 2, 3, 5)))
  logits[:, ~mask] *= 1e4
  roles = {
    k: Outputs(jnp.asarray(x), {}, None)
    for k, x in zip(("student", "teacher"), logits, strict=True)
  }
  objective = _textbrewer(
    {"kd_loss_type": kind, "temperature_scheduler": scheduler}
  )
  value, _ = run(objective, roles, {"mask": jnp.asarray(mask)})
  student, teacher = (np.float64(x[mask]) for x in logits)
  scale = 4.0
  if scheduler is not None:
    weights = {"flsw": flsw, "cwsm": cwsm}[scheduler[0]](student, teacher)
    scale = (4 + 0.5 * (weights.mean() - weights))[:, None]
  loss = soft if kind == "ce" else squared
  np.testing.assert_allclose(
    value, loss(student, teacher, scale).mean(), rtol=1e-5
  )


@pytest.mark.slow
def test_temperatures_are_those_of_all_devices():
  """Rows that differ much sit on one device, equal ones on the other."""
  logits = jnp.eye(4), jnp.eye(4)[jnp.array([1, 0, 2, 3])]
  batch = {"mask": jnp.array([True, True, True, False])}
  objective = _textbrewer({"temperature_scheduler": ["flsw", 1, 2]})

  def loss(logits, batch, axis_name=None):
    roles = {
      k: Outputs(x, {}, None)
      for k, x in zip(("student", "teacher"), logits, strict=True)
    }
    params, state = objective.init(KEY, roles)
    return objective.apply(
      params, state, roles, batch, KEY, axis_name=axis_name
    )[0]

  halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), logits)
  split = jax.tree.map(lambda x: x.reshape(2, 2), batch)
  found = jax.jit(
    jax.vmap(lambda *x: loss(*x, axis_name="batch"), axis_name="batch")
  )(halves, split)
  np.testing.assert_allclose(found, loss(logits, batch), rtol=1e-6)


@pytest.mark.parametrize(
  ("config", "expected"),
  [
    ({"hard_label_weight_scheduler": "linear_growth"}, [0.0, 0.1, 1.0]),
    pytest.param(
      {
        "hard_label_weight": 0.5,
        "hard_label_weight_scheduler": "linear_decay",
      },
      [0.5, 0.9, 0.0],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_a_scheduler_replaces_the_weight_after_the_first_step(config, expected):
  objective = _textbrewer(config | {"kd_loss_weight": 0}, steps=10)
  batch = BATCH | {"label": jnp.array([0, 1, 2])}
  params, state = objective.init(KEY, ROLES)
  apply = jax.jit(objective.apply)
  for step, weight in zip((0, 1, 10), expected, strict=True):
    value, _, metrics = apply(
      params, state | {"step": state["step"] + step}, ROLES, batch, KEY
    )
    total, count = metrics["ce/loss"]
    np.testing.assert_allclose(value, weight * total / count, rtol=1e-6)


def test_wrong_dicts_are_named():
  def match(**changes):
    return [{**MATCHES[0], **changes}]

  for matches, text in (
    (match(loss="mse"), "loss is 'mse'"),
    (match(feature="logits"), "feature is 'logits'"),
    (match(layer_S=[1, 1]), "layer_S is"),
    (match(wieght=1), "expected layer_T"),
  ):
    with pytest.raises(ValueError, match=text):
      methods.intermediate_matches(matches)
  for matches, text in (
    (match(layer_T=9), "teacher has no hidden 9; expected one of 0 to 4"),
    (match(proj=["relu", 6, 3]), "expected the widths"),
  ):
    with pytest.raises(ValueError, match=text):
      methods.intermediate_matches(matches).init(KEY, ROLES)
  for config, text in (
    ({"temprature": 1}, "config has"),
    ({"kd_loss_weight_scheduler": "linear_decay"}, "expected steps"),
    ({"kd_loss_weight": 0}, "all weights are 0"),
    ({"kd_loss_weight_scheduler": "cosine"}, "scheduler is 'cosine'"),
    ({"kd_loss_type": "kl"}, "kd_loss_type is 'kl'"),
  ):
    with pytest.raises(ValueError, match=text):
      _textbrewer(config)
