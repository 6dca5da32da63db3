"""Co-Tuning's and LwF's heads, Bi-Tuning's projector and queues."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.methods.finetuning._bi_tuning import _bi_tuning
from kdjax.methods.finetuning._co_tuning import _co_tuning
from kdjax.methods.finetuning._lwf import _lwf
from kdjax.nets import Outputs

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
ROWS, CLASSES, SOURCE_CLASSES, WIDTH, DIM, SIZE = 6, 3, 4, 5, 2, 3
LABELS = np.array([0, 2, 1, 0, 2, 2])
MASK = np.array([1, 1, 1, 1, 0, 1], bool)
BATCH = {"label": jnp.asarray(LABELS), "mask": jnp.asarray(MASK)}


def outputs(classes):
  embedding, kernel, bias = (
    RNG.normal(size=shape)
    for shape in ((ROWS, WIDTH), (WIDTH, classes), (classes,))
  )
  logits = embedding @ kernel + bias
  return Outputs(logits, {}, embedding, classifier=(kernel, bias))


STUDENT, TEACHER, AVERAGE = map(outputs, (CLASSES, SOURCE_CLASSES, CLASSES))
ROLES = {"student": STUDENT, "past": TEACHER}


def log_softmax(x):
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def first_loss(objective):
  """The loss at the start, moved by a constant, and the first gradient."""

  @jax.jit
  def program(roles):
    params, state = objective.init(KEY, roles)

    def loss(params):
      return objective.apply(params, state, roles, BATCH, KEY)[0]

    moved = jax.tree.map(lambda x: x + 0.5, params)
    return loss(params), loss(moved), jax.grad(loss)(params)

  with jax.enable_x64(True):
    return jax.device_get(program(ROLES))


def old_logits(move):
  kernel, bias = TEACHER.classifier
  return STUDENT.embedding @ (kernel + move) + bias + move


def test_co_tuning_trains_the_old_head_on_from_where_it_was():
  relationship = np.array([[0.7, 0.3, 0, 0], [0, 1, 0, 0], [0.25] * 4])
  with jax.enable_x64(True):
    objective = _co_tuning(jnp.asarray(relationship))
  *losses, gradient = first_loss(objective)
  for loss, move in zip(losses, (0.0, 0.5), strict=True):
    values = -(relationship[LABELS] * log_softmax(old_logits(move))).sum(-1)
    np.testing.assert_allclose(loss, values[MASK].mean(), rtol=1e-12)
  answers = np.exp(log_softmax(old_logits(0.0))) - relationship[LABELS]
  answers = answers[MASK] / MASK.sum()
  np.testing.assert_allclose(gradient["bias"], answers.sum(0), rtol=1e-10)
  np.testing.assert_allclose(
    gradient["kernel"], STUDENT.embedding[MASK].T @ answers, rtol=1e-10
  )


def test_lwf_keeps_the_old_answers():
  *losses, _ = first_loss(_lwf(temperature=2.0))
  targets = log_softmax(TEACHER.logits / 2)
  for loss, move in zip(losses, (0.0, 0.5), strict=True):
    gaps = targets - log_softmax(old_logits(move) / 2)
    values = 4 * (np.exp(targets) * gaps).sum(-1)
    np.testing.assert_allclose(loss, values[MASK].mean(), rtol=1e-10)


def test_a_head_needs_a_classifier_and_an_embedding():
  with pytest.raises(ValueError, match="past has no classifier"):
    _lwf().init(KEY, ROLES | {"past": TEACHER._replace(classifier=None)})
  params, state = jax.eval_shape(_lwf().init, KEY, ROLES)
  roles = ROLES | {"student": STUDENT._replace(embedding=None)}
  with pytest.raises(ValueError, match="student has no embedding"):
    jax.eval_shape(_lwf().apply, params, state, roles, BATCH, KEY)


MAKE = functools.partial(
  _bi_tuning, CLASSES, dim=DIM, size=SIZE, temperature=0.5, momentum=0.75
)


def two_steps(params, state, axis_name=None):
  objective = MAKE().objective

  def step(state, params, student, average, batch):
    roles = {"student": student, "average": average}
    loss, state, _ = objective.apply(
      params, state, roles, batch, KEY, axis_name=axis_name
    )
    return state, loss

  def program(student, teacher, batch):
    moved, first = step(state, params, student, teacher, batch)
    # The projector has been trained: its average follows.
    new = jax.tree.map(lambda x: x + 0.5, params)
    last, second = step(moved, new, student, teacher, batch)
    return first, second, last

  return program


@pytest.fixture(scope="module")
def run():
  with jax.enable_x64(True):
    params, state = jax.jit(MAKE().objective.init)(
      KEY, {"student": STUDENT, "average": AVERAGE}
    )
    program = jax.jit(two_steps(params, state))
    return params, state, jax.device_get(program(STUDENT, AVERAGE, BATCH))


def contrast(own, anchors, queue):
  """KL of the uniform distribution over positives and the softmax."""
  scores = np.einsum("bd,ckd->bck", anchors, queue)
  everything = np.concatenate([own[:, None], scores.reshape(ROWS, -1)], 1) / 0.5
  positive = np.repeat(LABELS[:, None] == np.arange(CLASSES), SIZE, 1)
  positive = np.concatenate([np.ones((ROWS, 1), bool), positive], 1)
  logs = log_softmax(everything)
  return np.array(
    [
      -np.log(SIZE + 1) - x[keep].mean()
      for x, keep in zip(logs, positive, strict=True)
    ]
  )


@pytest.mark.slow
def test_bi_tuning_is_both_contrasts_with_their_queues(run):
  params, state, (*losses, last) = run
  params = jax.device_get(params)
  module = {k: np.array(v) for k, v in state["module"].items()}
  queries, encoded = STUDENT.embedding, AVERAGE.embedding
  kernel, bias = STUDENT.classifier
  head = unit(np.concatenate([kernel.T, bias[:, None]], 1))
  ones = np.ones((ROWS, 1))
  features, keys_of_features = (
    unit(np.concatenate([x, ones], 1)) for x in (queries, encoded)
  )
  for loss, move in zip(losses, (0.0, 0.5), strict=True):
    for name in ("kernel", "bias"):
      average = module[f"average_{name}"]
      module[f"average_{name}"] = 0.75 * average + 0.25 * (params[name] + move)
    keys = unit(encoded @ module["average_kernel"] + module["average_bias"])
    rows = unit(queries @ (params["kernel"] + move) + params["bias"] + move)
    values = contrast((rows * keys).sum(-1), rows, module["projections"])
    for i in np.flatnonzero(MASK):
      place = LABELS[i], module["position"][LABELS[i]]
      module["features"][place] = keys_of_features[i]
      module["projections"][place] = keys[i]
      module["position"][LABELS[i]] = (place[1] + 1) % SIZE
    anchors = head[LABELS]
    values += contrast(
      (features * anchors).sum(-1), anchors, module["features"]
    )
    np.testing.assert_allclose(loss, values[MASK].mean(), rtol=1e-10)
  assert last["module"].keys() == module.keys()
  for name, value in module.items():
    np.testing.assert_allclose(last["module"][name], value, rtol=1e-10)


@pytest.mark.slow
def test_bi_tuning_on_two_devices_is_that_on_one(run):
  params, state, (*losses, last) = run

  def split(tree):
    return jax.tree.map(lambda x: x.reshape(2, ROWS // 2, *x.shape[1:]), tree)

  def whole(student):  # a classifier has no rows to divide
    return student._replace(classifier=None)

  program = two_steps(params, state, "devices")
  head = STUDENT.classifier
  mapped = jax.jit(
    jax.vmap(
      lambda student, teacher, batch: program(
        student._replace(classifier=head), teacher, batch
      ),
      axis_name="devices",
    )
  )
  with jax.enable_x64(True):
    *both, moved = jax.device_get(
      mapped(split(whole(STUDENT)), split(whole(AVERAGE)), split(BATCH))
    )
  for loss, expected in zip(both, losses, strict=True):
    np.testing.assert_allclose(loss, np.full(2, expected), rtol=1e-12)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-12), moved, last
  )


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"size": 0}, "bi_tuning: size is 0"),
    ({"temperature": 0.0}, "bi_tuning: temperature is 0"),
    ({"momentum": 1.5}, "bi_tuning: momentum is 1.5"),
  ],
)
def test_bi_tuning_says_what_will_not_do(options, message):
  with pytest.raises(ValueError, match=message):
    _bi_tuning(CLASSES, **options)


def test_lwf_says_what_will_not_do():
  with pytest.raises(ValueError, match="lwf: temperature is -1"):
    _lwf(temperature=-1.0)
