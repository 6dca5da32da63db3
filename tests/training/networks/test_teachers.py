"""Online, cached and ensembled teachers are interchangeable in a step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.data import (
  ArraySource,
  augment_examples,
  random_flip,
  write_teacher_cache,
)
from kdjax.distillation import soft_target_loss
from kdjax.nets import MLP, Outputs
from kdjax.training import (
  CachedTeacher,
  Model,
  Variables,
  distill,
  ensemble,
  epoch_plan,
  from_nnx,
  scan_epoch,
)

KEY = jax.random.key(0)
SIZE, CLASSES, SHAPE = 12, 5, (4, 4, 1)
IMAGES = np.asarray(jax.random.normal(jax.random.key(1), (SIZE, *SHAPE)))
LABELS = np.arange(SIZE, dtype=np.int32) % CLASSES
BATCH = {
  "image": IMAGES,
  "label": LABELS,
  "index": np.arange(SIZE),
  "mask": np.arange(SIZE) < 9,
}


@functools.cache
def network(seed):

  @nnx.jit
  def build():
    rngs = nnx.Rngs(seed)
    return MLP(CLASSES, input_shape=SHAPE, hidden=(6,), rngs=rngs)

  return from_nnx(build())


def update(teacher, batch):
  """What one step does, and what an evaluation says, with a teacher."""
  learner = distill(
    network(0), teacher, soft_target_loss, optax.sgd(0.1), temperature=2.0
  )
  state = learner.init(KEY, batch)
  assert bool(learner.frozen) == isinstance(teacher, Model)

  @jax.jit
  def run(state, frozen, batch):
    state, metrics = learner.step(state, frozen, batch, KEY)
    return state.params, metrics, learner.evaluate(state, frozen, batch)

  return run(state, learner.frozen, batch)


def assert_equal(actual, expected, **tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected
  )


@pytest.fixture(scope="module")
def online():
  return update(network(1), BATCH)


def cache(path, **options):
  teacher = network(1)

  def answer(variables, images):
    return teacher.forward(variables, images, train=False, key=None)[0].logits

  return write_teacher_cache(
    path,
    ArraySource(IMAGES, LABELS),
    answer,
    teacher.variables,
    dataset="random",
    batch_size=SIZE,
    **options,
  )


@pytest.mark.slow
def test_a_float32_cache_gives_the_same_update(online, tmp_path):
  batch = cache(tmp_path).attach(BATCH, seed=0)
  assert_equal(update(CachedTeacher(CLASSES), batch), online, rtol=1e-6)


@pytest.mark.slow
def test_the_same_augmentation_of_both(tmp_path):
  view = jax.jit(lambda *args: augment_examples(random_flip, *args))
  cached = cache(tmp_path, augment=random_flip, seed=3).attach(BATCH, seed=3)
  images = view(IMAGES, BATCH["index"], 3)
  assert np.any(images != IMAGES)
  assert_equal(
    update(CachedTeacher(CLASSES), cached | {"image": images}),
    update(network(1), BATCH | {"image": images}),
    rtol=1e-6,
  )


@pytest.mark.slow
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_an_ensemble_of_one_gives_the_same_update(online, average):
  teacher = ensemble([network(1)], average=average, temperature=2.0)
  actual = update(teacher, BATCH)
  assert_equal(actual, online, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_likeliest_classes_keep_their_probabilities_and_the_rest(tmp_path):
  batch = cache(tmp_path, top_k=2, dtype="float32").attach(BATCH, seed=0)
  teacher = network(1)
  dropped = CachedTeacher(CLASSES, tail="drop")

  @jax.jit
  def run(variables, batch):
    outputs, _ = teacher.forward(variables, IMAGES, train=False, key=None)
    cached = CachedTeacher(CLASSES)(batch)
    probabilities = [jax.nn.softmax(x.logits) for x in (outputs, cached)]
    return *probabilities, dropped(batch).logits

  exact, spread, logits = jax.device_get(run(teacher.variables, batch))
  kept = np.take_along_axis(exact, batch["teacher"]["ids"], -1)
  for row, whole, top in zip(spread, exact, kept, strict=True):
    expected = np.full(CLASSES, (1 - top.sum()) / 3)
    expected[np.argsort(-whole)[:2]] = top
    np.testing.assert_allclose(row, expected, rtol=1e-5)
  assert (np.isneginf(logits).sum(-1) == 3).all()
  for teacher in (CachedTeacher(CLASSES), dropped):
    params, _, _ = update(teacher, batch)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_likeliest_classes_of_every_token():
  logits = np.random.default_rng(1).normal(size=(2, 3, CLASSES))
  ids = np.argsort(-logits, -1)[..., :2]
  values = np.float32(np.take_along_axis(logits, ids, -1))
  others = np.sort(logits, -1)[..., :-2]
  rest = np.float32(np.logaddexp.reduce(others, -1))
  top = {"ids": ids.astype(np.int32), "values": values, "rest": rest}
  top = jax.tree.map(jnp.asarray, top)
  full = CachedTeacher(CLASSES)({"teacher": top}).logits
  expected = np.broadcast_to(
    np.log(np.exp(others).mean(-1, keepdims=True)), logits.shape
  ).copy()
  np.put_along_axis(expected, ids, values, -1)
  np.testing.assert_allclose(full, expected, rtol=1e-5, atol=1e-6)


def constant(logits):
  def forward(variables, x, *, train, key):
    return Outputs(variables.params, {"f0": x}, None), variables.state

  return Model(forward, Variables(jnp.log(jnp.array([logits])), {}))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_both_means_in_numpy(temperature):
  probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])

  @functools.partial(jax.jit, static_argnums=0)
  def of_ensemble(average, temperature):
    models = [constant(row) for row in probabilities]
    model = ensemble(models, average=average, temperature=temperature)
    outputs, _ = model.forward(model.variables, 0.0, train=False, key=None)
    return jax.nn.softmax(outputs.logits[0] / temperature)

  soft = probabilities ** (1 / temperature)
  soft /= soft.sum(-1, keepdims=True)
  geometric = np.sqrt(soft[0] * soft[1])
  for average, expected in (
    ("probabilities", soft.mean(0)),
    ("logits", geometric / geometric.sum()),
  ):
    actual = of_ensemble(average, temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_cached_teacher_goes_through_an_epoch_on_the_device():
  def step(state, frozen, batch, key):
    logits = CachedTeacher(CLASSES)(batch).logits
    return state + jnp.sum(logits[:, 0] * batch["mask"]), {}

  logits = jnp.arange(SIZE * CLASSES, dtype=jnp.float16).reshape(SIZE, -1)
  data = {"label": jnp.asarray(LABELS), "teacher": {"logits": logits}}
  plan = epoch_plan(SIZE, 5, key=KEY)
  total, _ = jax.jit(scan_epoch(step))(0.0, {}, data, plan, KEY)
  assert total == logits[:, 0].astype(jnp.float32).sum()


def test_errors():
  for options in ({"augment": random_flip}, {"views": {"weak": random_flip}}):
    with pytest.raises(ValueError, match=r"augment or views is given, but"):
      distill(
        network(0),
        CachedTeacher(5),
        soft_target_loss,
        optax.sgd(0.1),
        **options,
      )
  with pytest.raises(ValueError, match=r"batch has \['image'\]; expected 't"):
    CachedTeacher(5)({"image": IMAGES})
  with pytest.raises(ValueError, match=r"shape \(2, 4\); expected num_classes"):
    CachedTeacher(5)({"teacher": {"logits": jnp.zeros((2, 4))}})
  with pytest.raises(ValueError, match=r"has \['ids', 'log_probs'\]; expected"):
    CachedTeacher(5)({"teacher": {"ids": IMAGES, "log_probs": IMAGES}})
  with pytest.raises(ValueError, match="tail is 'bucket'; expected one of"):
    CachedTeacher(5, tail="bucket")
  with pytest.raises(ValueError, match="models is empty"):
    ensemble([])
  with pytest.raises(ValueError, match="average is 'mean'; expected one of"):
    ensemble([network(0)], average="mean")
