"""Objectives that change over the steps, and the views of narrow networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, nets, training
from kdjax.distillation import soft_target_loss

SHAPE = (2, 2, 1)
IMAGES = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32)
BATCH = {
  "image": IMAGES,
  "label": np.arange(6) % 3,
  "mask": np.ones(6, bool),
}


def network(*hidden):
  return training.Network.of(
    lambda rngs: nets.MLP(3, input_shape=SHAPE, hidden=hidden, rngs=rngs)
  )


def model(made, seed):
  return training.Model(made.forward, made.init(jax.random.key(seed)))


@pytest.mark.slow
def test_checkpoints_teach_in_turn():
  z = np.random.default_rng(1).normal(size=(3, 6, 3)).astype(np.float32)
  outputs = {
    name: nets.Outputs(jnp.asarray(x), {}, None)
    for name, x in zip(("student", "teacher_0", "teacher_1"), z, strict=True)
  }
  objective = methods.create("rco", steps=4).objective
  params, state = objective.init(jax.random.key(0), outputs)
  for step in range(6):
    _, state, metrics = objective.apply(
      params, state, outputs, BATCH, jax.random.key(0)
    )
    total, count = metrics["rco/loss"]
    expected = soft_target_loss(z[0], z[1 + min(step // 2, 1)], temperature=4.0)
    np.testing.assert_allclose(total / count, expected.mean(), rtol=1e-6)


@pytest.mark.slow
def test_stages_learn_one_after_the_other():
  groups = [r"layers/0", r"layers/1", "head"]
  learner = training.distill(
    network(4, 5),
    model(network(6, 7), 1),
    # The last stage has one more.
    methods.create("stagewise", steps=7, groups=groups),
    optax.adam(1e-2),
  )
  state = learner.init(jax.random.key(0), BATCH)
  step, moved = jax.jit(learner.step), []
  for i in range(7):
    before = state.params["student"]
    state, _ = step(state, learner.frozen, BATCH, jax.random.key(i))
    after = state.params["student"]
    moved.append(
      [
        bool(jnp.any(a["kernel"] != b["kernel"]))
        for a, b in (
          (before["layers"][0], after["layers"][0]),
          (before["layers"][1], after["layers"][1]),
          (before["head"], after["head"]),
        )
      ]
    )
  one, two, three = np.eye(3, dtype=bool).tolist()
  assert moved == [one, one, two, two, three, three, three]


@pytest.mark.slow
def test_shrinking_trains_networks_that_can_be_cut_out():
  large = network(8, 8)
  student = training.slimmable(large)
  learner = training.distill(
    student,
    None,
    methods.create("sandwich"),
    optax.adam(3e-2),
    views=methods.sandwich_views(0.25),
  )
  state = learner.init(jax.random.key(0), BATCH)
  step = jax.jit(learner.step)
  for i in range(60):
    state, metrics = step(state, learner.frozen, BATCH, jax.random.key(i))
  assert {"loss", "ce/loss", "sandwich/loss"} <= set(metrics)
  small = network(2, 2)
  variables = small.init(jax.random.key(1))
  cut = nets.copy_paste(
    state.params["student"], variables.params, widths="first"
  )
  answer, _ = small.forward(
    training.Variables(cut, {}), IMAGES, train=False, key=None
  )
  inputs = {"inputs": IMAGES, "width": jnp.full(6, 0.25)}
  masked, _ = student.forward(state.student, inputs, train=False, key=None)
  np.testing.assert_allclose(answer.logits, masked.logits, atol=1e-5)
  whole, _ = student.forward(state.student, IMAGES, train=False, key=None)
  assert float(jnp.abs(whole.logits - masked.logits).max()) > 1e-3


def test_views_have_one_width_for_the_batch():
  views = methods.sandwich_views(0.25)
  widths = [
    np.unique(view(jax.random.key(3), BATCH)["width"])
    for view in views.values()
  ]
  assert [len(x) for x in widths] == [1, 1, 1]
  assert widths[0] == 0.25
  assert all(0.25 <= x[0] < 1 for x in widths)
  with pytest.raises(ValueError, match=r"widths is 1\.5"):
    methods.sandwich_views(1.5)
  with pytest.raises(ValueError, match="count is 1"):
    methods.sandwich_views(0.5, count=1)


def test_views_draw_from_a_list_of_widths():
  views = methods.sandwich_views((0.5, 0.25, 0.75), count=2)
  drawn = {
    float(views["narrow_1"](jax.random.key(i), BATCH)["width"][0])
    for i in range(20)
  }
  assert drawn == {0.25, 0.5, 0.75}
  assert views["narrow_0"](jax.random.key(0), BATCH)["width"][0] == 0.25


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_of_the_steps_is_one(share):
  with pytest.raises(ValueError, match=rf"annealing: share is {share}"):
    methods.create("annealing", steps=4, share=share)


def answers(*roles):
  return {k: nets.Outputs(jnp.ones((6, 3)), {}, None) for k in roles}


def test_no_teacher_is_left_out_silently():
  outputs = answers("student", "teacher_0", "teacher_1", "teacher_2")
  classes = [[0, 1, 2], [0, 1, 2]]
  objective = methods.create("amalgamation", teacher_classes=classes).objective
  params, state = objective.init(jax.random.key(0), outputs)
  with pytest.raises(ValueError, match="has 2 lists for 3 teachers"):
    objective.apply(params, state, outputs, BATCH, jax.random.key(0))


@pytest.mark.parametrize(
  ("name", "maker"),
  [
    ("codistillation", r"training.collaborate"),
    ("dgkd", "training.guide"),
    ("sandwich", "views=methods.sandwich_views"),
  ],
)
def test_missing_roles_name_the_function_that_makes_them(name, maker):
  outputs = answers("student", "teacher", "peer_0", "peer_1")
  objective = methods.create(name).objective
  params, state = objective.init(jax.random.key(0), outputs)
  batch = jax.tree.map(jnp.asarray, BATCH)
  with pytest.raises(ValueError, match=maker):
    objective.apply(params, state, outputs, batch, jax.random.key(0))


def test_maps_of_other_sizes_are_refused():
  outputs = {
    role: nets.Outputs(
      jnp.ones((2, 3)), {"f0": jnp.ones((2, size, size, 2))}, None
    )
    for role, size in (("student", 4), ("teacher", 2))
  }
  with pytest.raises(ValueError, match="expected maps of one size"):
    methods.create("stagewise", steps=2).objective.init(
      jax.random.key(0), outputs
    )
