"""Whole methods of fine-tuning, trained from their names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods, nets, training

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SHAPE = (2, 2, 1)


def images(*axes):
  return jnp.asarray(RNG.normal(size=(*axes, *SHAPE)), jnp.float32)


BATCH = {"image": images(6), "label": jnp.arange(6) % 3}


def mlp(seed=0):
  return nets.MLP(3, input_shape=SHAPE, hidden=(5, 4), rngs=nnx.Rngs(seed))


def step_sizes(name, steps=1, **options):
  method = methods.create(name, **options)
  learner = training.finetune(mlp(), None, method, optax.sgd(0.1))
  state = learner.init(KEY, BATCH)
  plain = training.finetune(
    mlp(), None, methods.create("finetune"), optax.sgd(0.1)
  )
  other = plain.init(KEY, BATCH)
  step, free = jax.jit(learner.step), jax.jit(plain.step)
  for _ in range(steps):
    old = state.params["student"]
    other = other._replace(params=state.params)
    state, _ = step(state, {}, BATCH, KEY)
    moved, _ = free(other, {}, BATCH, KEY)

  def ratio(params):
    new, all_of = (
      params(state.params["student"]),
      params(moved.params["student"]),
    )
    start = params(old)
    return float(jnp.sum((new - start) ** 2) / jnp.sum((all_of - start) ** 2))

  return [
    ratio(lambda p: p["layers"][0]["kernel"]),
    ratio(lambda p: p["layers"][1]["kernel"]),
    ratio(lambda p: p["head"]["kernel"]),
  ]


def test_a_linear_probe_moves_the_head_alone():
  np.testing.assert_allclose(step_sizes("linear_probe"), [0, 0, 1], atol=1e-4)


def test_rates_fall_by_layers_that_follow_from_the_student():
  sizes = step_sizes("layerwise", decay=0.5)
  np.testing.assert_allclose(sizes, [1 / 16, 1 / 4, 1], rtol=1e-3)


def test_layers_are_unfrozen_from_the_head_on():
  sizes = [
    step_sizes("unfreezing", steps, steps_per_epoch=1) for steps in (1, 2, 3)
  ]
  expected = [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
  np.testing.assert_allclose(sizes, expected, atol=1e-4)
  with pytest.raises(ValueError, match="expected steps_per_epoch"):
    methods.create("unfreezing")


class Unordered(nnx.Module):
  def __init__(self):
    self.one = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    self.another = nnx.Linear(3, 3, rngs=nnx.Rngs(1))
    self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(2))

  def __call__(self, x):
    return self.head(self.another(self.one(x.reshape(len(x), -1))))


def test_layers_without_an_order_need_groups():
  method = methods.create("layerwise")
  learner = training.finetune(Unordered(), None, method, optax.sgd(0.1))
  with pytest.raises(ValueError, match=r"expected create\('layerwise', groups"):
    learner.init(KEY, BATCH)
  method = methods.create("layerwise", groups=["one", "another", "head"])
  learner = training.finetune(Unordered(), None, method, optax.sgd(0.1))
  learner.init(KEY, BATCH)


def tasks(*axes):
  labels = jnp.broadcast_to(jnp.arange(axes[-1]) % 3, axes)
  return {"image": images(*axes), "label": labels}


EPISODES = {"support": tasks(2, 3), "query": tasks(2, 6)}


def task_loss(params, part):
  graph = nnx.graphdef(mlp())
  model = nnx.merge(graph, params)
  logits = model(part["image"]).logits
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(logits, part["label"])
  )


@pytest.mark.parametrize("name", ["maml", "anil", "reptile"])
def test_episodes_lead_where_the_functions_do(name):
  method = methods.create(name, inner_learning_rate=0.1, inner_steps=2)
  learner = training.finetune(mlp(), None, method, optax.sgd(1.0))
  state = learner.init(KEY, EPISODES)
  moved, seen = jax.jit(learner.step)(state, {}, EPISODES, KEY)
  params = state.params["student"]
  if name == "reptile":
    gradient = methods.reptile_gradient(
      task_loss, params, EPISODES["support"], optax.adam(0.1, b1=0.0), steps=2
    )
  else:
    value, gradient = jax.value_and_grad(
      lambda params: jnp.mean(
        methods.maml_losses(
          task_loss,
          params,
          EPISODES["support"],
          EPISODES["query"],
          optax.sgd(0.1),
          steps=2,
          adapted=["head"] if name == "anil" else None,
        )
      )
    )(params)
    total, count = seen["loss"]
    np.testing.assert_allclose(total / count, value, rtol=1e-5)
  jax.tree.map(
    lambda new, old, g: np.testing.assert_allclose(new, old - g, atol=1e-5),
    moved.params["student"],
    params,
    gradient,
  )


class Normed(nnx.Module):
  def __init__(self):
    self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    self.head = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

  def __call__(self, x):
    return self.head(self.norm(x.reshape(len(x), -1)))


def test_stochnorm_changes_the_network_of_its_learner():
  method = methods.create("stochnorm", probability=0.0)
  learner = training.finetune(Normed(), None, method, optax.sgd(0.1))
  state = learner.init(KEY, BATCH)
  before = learner.loss_fn.run(
    state.params, state.state, {}, BATCH, KEY, axis_name=None
  )[0]["student"].logits
  model = Normed()
  model.eval()  # Of moving statistics alone.
  np.testing.assert_allclose(before, model(BATCH["image"]), atol=1e-5)
  with pytest.raises(TypeError, match="stochnorm changes layers"):
    training.finetune(training.from_nnx(Normed()), None, method, optax.sgd(0.1))


def test_bi_tuning_keeps_its_average():
  method = methods.create("bi_tuning", num_classes=3, dim=2, size=3)
  learner = training.finetune(mlp(), None, method, optax.sgd(0.1))
  state = learner.init(KEY, BATCH)
  state, metrics = jax.jit(learner.step)(state, {}, BATCH, KEY)
  assert "bi_tuning/loss" in metrics
  training.averaged_student(state)
