"""No way over two devices gives other parameters than one device, unsaid.

The mask is uneven, so whatever averages over one device's part alone, or
averages means, shows. A way that cannot know its axis raises.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from kdjax.distillation import dist_loss, kd_loss
from kdjax.methods import Objective, combine, modular, stateless
from kdjax.nets import Outputs
from kdjax.ops import masked_mean
from kdjax.training import (
  Model,
  Variables,
  adapt,
  distill,
  finetune,
  from_linen,
  from_nnx,
  generalize,
  make_eval_step,
  make_train_step,
  parallelize,
  sweep,
)

KEY = jax.random.key(0)
SIZE, WIDTH, CLASSES = 8, 6, 3
SGD = optax.sgd(0.5)
DEVICES = jax.devices()[:2]
MESH = jax.make_mesh((2,), ("batch",), (AxisType.Auto,), devices=DEVICES)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def domain(seed, valid, size=SIZE):
  return {
    "x": jax.random.normal(jax.random.key(seed), (size, WIDTH)),
    "label": jnp.arange(size) % CLASSES,
    "mask": jnp.arange(size) < valid,
  }


# Five examples: four on the first device and one on the second.
BATCH = domain(1, 5)
DOMAINS = {"source": BATCH, "target": domain(2, 3, 4)}
SEVERAL = jax.tree.map(lambda *x: jnp.stack(x), BATCH, domain(3, 7))


class Nnx(nnx.Module):
  def __init__(self, norm, rngs):
    # A bias before a normalization has no gradient but rounding.
    self.layer = nnx.Linear(WIDTH, 4, use_bias=False, rngs=rngs)
    self.norm = norm(4, rngs=rngs)
    self.head = nnx.Linear(4, CLASSES, rngs=rngs)

  def __call__(self, x):
    embedding = nnx.relu(self.norm(self.layer(x)))
    head = self.head.kernel[...], self.head.bias[...]
    return Outputs(self.head(embedding), {}, embedding, classifier=head)


class Linen(linen.Module):
  norm: str

  @linen.compact
  def __call__(self, x, train):
    x = linen.Dense(4, use_bias=False)(x)
    options = {"use_running_average": not train}
    if self.norm != "BatchNorm":
      options = {}
    embedding = linen.relu(getattr(linen, self.norm)(**options)(x))
    return Outputs(linen.Dense(CLASSES)(embedding), {}, embedding)


@functools.cache
def nnx_model(norm="BatchNorm", seed=0):
  make = getattr(nnx, norm)
  if norm == "GroupNorm":
    make = functools.partial(make, num_groups=2)
  return from_nnx(nnx.jit(lambda: Nnx(make, nnx.Rngs(seed)))())


@functools.cache
def linen_model(norm="BatchNorm"):
  module = Linen(norm)
  variables = jax.jit(functools.partial(module.init, train=False))(
    KEY, BATCH["x"]
  )
  return from_linen(module, variables)


def supervised(logits, labels):
  return cross_entropy(logits, labels)


def coupled(student_logits, teacher_logits, *, where, axis_name):
  return dist_loss(
    student_logits, teacher_logits, where=where, axis_name=axis_name
  )


class Projector(nnx.Module):
  def __init__(self, rngs):
    self.layer = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.scale = nnx.LayerNorm(4, rngs=rngs)

  def __call__(self, x):
    return self.scale(self.norm(self.layer(x)))


def projected(projector, student_embedding, teacher_embedding):
  return jnp.sum((projector(student_embedding) - teacher_embedding) ** 2, -1)


def everything():
  """One value an example, one for the batch, and one with its own network."""
  return combine(
    {
      "kd": (0.5, stateless(kd_loss)),
      "dist": (1.0, stateless(coupled)),
      "hint": (0.1, modular(lambda rngs: Projector(rngs), projected)),
    }
  )


def adaptation_gap(
  source_embeddings,
  target_embeddings,
  *,
  where_source,
  where_target,
  axis_name,
):
  """The squared distance of the domains' means, over all devices."""

  def mean(rows, where):
    total, count = rows.T @ where, jnp.sum(where)
    if axis_name is not None:
      total, count = jax.lax.psum((total, count), axis_name)
    return total / count

  means = (
    mean(rows, where.astype(jnp.float32))
    for rows, where in (
      (source_embeddings, where_source),
      (target_embeddings, where_target),
    )
  )
  distance = jnp.sum(jnp.square(jnp.subtract(*means)))
  return distance if axis_name is None else jax.lax.pmean(distance, axis_name)


def domain_variance(student_logits, labels, *, where, axis_name):
  """The variance of the domains' risks, and their mean."""
  values = cross_entropy(student_logits, labels)
  risks = jnp.stack(
    [
      masked_mean(v, w, axis_name=axis_name)
      for v, w in zip(values, where, strict=True)
    ]
  )
  return risks.mean() + risks.var()


LEARNERS = {
  "distill, NNX": lambda: (
    distill(nnx_model(), nnx_model(seed=1), everything(), SGD, on="x"),
    BATCH,
  ),
  "distill, Linen": lambda: (
    distill(linen_model(), nnx_model(seed=1), kd_loss, SGD, on="x"),
    BATCH,
  ),
  "distill, views": lambda: (
    distill(
      nnx_model(),
      nnx_model(seed=1),
      kd_loss,
      SGD,
      on="x",
      views={"other": lambda key, batch: -batch["x"]},
    ),
    BATCH,
  ),
  "adapt, joint": lambda: (
    adapt(
      nnx_model(),
      combine(
        {
          "ce": (1.0, stateless(cross_entropy, SOURCE)),
          "gap": (1.0, stateless(adaptation_gap)),
        }
      ),
      SGD,
      on="x",
    ),
    DOMAINS,
  ),
  "adapt, apart": lambda: (
    adapt(linen_model(), adaptation_gap, SGD, on="x", joint=False),
    DOMAINS,
  ),
  "finetune": lambda: (
    finetune(nnx_model(), nnx_model(seed=1), past_gap, SGD, on="x"),
    BATCH,
  ),
  "generalize": lambda: (
    generalize(nnx_model(), domain_variance, SGD, on="x"),
    SEVERAL,
  ),
}
SOURCE = ("source_logits", "source_labels")


def past_gap(student_logits, past_logits):
  return jnp.sum((student_logits - past_logits) ** 2, -1)


def pmapped(step, batch_axis=0):
  """The step under `jax.pmap`, written by a user."""

  def call(state, frozen, batch, key):
    split = jax.tree.map(
      lambda x: x.reshape(
        *x.shape[:batch_axis], 2, -1, *x.shape[batch_axis + 1 :]
      ),
      batch,
    )
    mapped = jax.pmap(
      step,
      "batch",
      in_axes=(None, None, batch_axis, None),
      devices=DEVICES,
    )
    return first_of(mapped(state, frozen, split, key))

  return call


def vmapped(step, batch_axis=0):
  def call(state, frozen, batch, key):
    split = jax.tree.map(
      lambda x: x.reshape(
        *x.shape[:batch_axis], 2, -1, *x.shape[batch_axis + 1 :]
      ),
      batch,
    )
    axes = (None, None, batch_axis, None)
    mapped = jax.vmap(step, axes, axis_name="batch")
    return first_of(jax.jit(mapped)(state, frozen, split, key))

  return call


def sharded(step, batch_axis=0, **options):
  specs = P(), P(), P(*[None] * batch_axis, "batch"), P()
  options = {"out_specs": P()} | options
  return jax.jit(jax.shard_map(step, mesh=MESH, in_specs=specs, **options))


def first_of(tree):
  """What both devices have, which is one."""

  def leaf(x):
    np.testing.assert_allclose(x[0], x[1], rtol=1e-5, atol=1e-6)
    return x[0]

  return jax.tree.map(leaf, tree)


WAYS = {"pmap": pmapped, "vmap": vmapped, "shard_map": sharded}
QUICK_LEARNERS = ("generalize",)
# All reduce over a named axis: those that compile slowly show no more.
QUICK_WAYS = [
  "vmap",
  pytest.param("pmap", marks=pytest.mark.slow),
  pytest.param("shard_map", marks=pytest.mark.slow),
]


def close(actual, expected, tolerance=1e-5):
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@functools.cache
def reference(name):
  """A learner, its batch and state, and one step on one device."""
  learner, batch = LEARNERS[name]()
  state = learner.init(KEY, batch)
  moved = jax.jit(learner.step)(state, learner.frozen, batch, KEY)
  return learner, batch, state, moved


def moves(state, moved):
  """A step that moves nothing would show nothing."""
  return max(
    float(jnp.max(jnp.abs(a - b)))
    for a, b in zip(
      jax.tree.leaves(state.params),
      jax.tree.leaves(moved.params),
      strict=True,
    )
  )


@pytest.mark.parametrize("way", QUICK_WAYS)
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[] if name in QUICK_LEARNERS else pytest.mark.slow)
    for name in LEARNERS
  ],
)
def test_a_step_that_is_told_its_axis_is_that_of_one_device(name, way):
  learner, batch, state, expected = reference(name)
  assert moves(state, expected[0]) > 1e-2
  step = functools.partial(learner.step, axis_name="batch")
  axis = 1 if name == "generalize" else 0
  close(WAYS[way](step, axis)(state, learner.frozen, batch, KEY), expected)


@pytest.mark.parametrize(
  ("name", "mode"),
  [
    pytest.param("adapt, apart", "shard_map", marks=pytest.mark.slow),
    ("generalize", "shard_map"),
    pytest.param("finetune", "pmap", marks=pytest.mark.slow),
    pytest.param("generalize", "jit", marks=pytest.mark.slow),
  ],
)
def test_parallelize_names_the_axis_itself(name, mode):
  learner, batch, state, expected = reference(name)
  parallel = parallelize(learner, mode, devices=DEVICES)
  close(parallel.step(state, learner.frozen, batch, KEY), expected)
  alone = batch if "x" in batch else batch["source"]
  if name != "generalize":
    close(
      parallel.evaluate(state, learner.frozen, alone),
      jax.jit(learner.evaluate)(state, learner.frozen, alone),
    )


@pytest.mark.slow
def test_an_axis_named_where_the_learner_is_made():
  learner, batch, state, expected = reference("finetune")
  named = finetune(
    nnx_model(), nnx_model(seed=1), past_gap, SGD, on="x", axis_name="batch"
  )
  arguments = state, learner.frozen, batch, KEY
  close(vmapped(named.step)(*arguments), expected)
  by_hand = make_train_step(named.loss_fn, SGD, axis_name="batch")
  close(sharded(by_hand)(*arguments), expected)
  # And over what it is named, it can still be told that there is none.
  alone = jax.jit(functools.partial(named.step, axis_name=None))
  close(alone(*arguments), expected)


@pytest.mark.parametrize(
  ("make", "norm"),
  [
    (nnx_model, "LayerNorm"),
    pytest.param(nnx_model, "GroupNorm", marks=pytest.mark.slow),
    pytest.param(nnx_model, "RMSNorm", marks=pytest.mark.slow),
    (linen_model, "LayerNorm"),
    pytest.param(linen_model, "RMSNorm", marks=pytest.mark.slow),
  ],
)
def test_statistics_of_one_example_stay_those_of_one_example(make, norm):
  """Flax gives these layers an axis name too."""
  learner = distill(make(norm), None, supervised, SGD, on="x")
  state = learner.init(KEY, BATCH)
  expected = jax.jit(learner.step)(state, {}, BATCH, KEY)
  step = functools.partial(learner.step, axis_name="batch")
  close(vmapped(step)(state, {}, BATCH, KEY), expected)


@pytest.mark.parametrize("name", ["distill, NNX", "adapt, apart", "generalize"])
@pytest.mark.parametrize(
  "way",
  [
    *WAYS.values(),
    functools.partial(sharded, out_specs=(P(), P("batch"))),
    functools.partial(sharded, check_vma=False),
  ],
)
def test_a_step_that_is_not_told_its_axis_raises(name, way):
  """Its loss would be that of its part, and its parameters other ones."""
  learner, batch, state, _ = reference(name)
  axis = 1 if name == "generalize" else 0
  for step in (
    learner.step,
    make_train_step(learner.loss_fn, SGD),
    jax.jit(learner.step),
  ):
    with pytest.raises(
      ValueError, match=r"the step is mapped over the axis 'batch' and got no"
    ):
      way(step, axis)(state, learner.frozen, batch, KEY)


def test_an_unnamed_map_raises_as_well():
  learner, batch, state, _ = reference("distill, NNX")
  parts = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
  mapped = jax.pmap(
    lambda part: learner.step(state, learner.frozen, part, KEY),
    devices=DEVICES,
  )
  with pytest.raises(ValueError, match=r"expected axis_name=\.\.\. in jax\."):
    mapped(parts)


def test_evaluations_and_losses_that_are_not_told_raise():
  learner, batch, state, _ = reference("distill, NNX")
  again = make_eval_step(learner.loss_fn, {})
  for evaluate in (learner.evaluate, again):
    with pytest.raises(ValueError, match=r"the evaluation is mapped over the"):
      pmapped(lambda s, f, b, k, e=evaluate: e(s, f, b))(
        state, learner.frozen, batch, KEY
      )

  def gradient(state, frozen, batch, key):
    return jax.grad(learner.loss_fn, has_aux=True)(
      state.params, state.state, frozen, batch, key
    )

  with pytest.raises(ValueError, match=r"the loss is mapped over the axis"):
    pmapped(gradient)(state, learner.frozen, batch, KEY)


@pytest.mark.slow
def test_students_that_are_apart_say_so():
  """Over an axis of students nothing is reduced."""
  learner, batch, state, expected = reference("finetune")
  states = jax.tree.map(lambda x: jnp.stack([x, x]), state)
  keys = jnp.stack([KEY, KEY])
  step = functools.partial(learner.step, axis_name=None)
  axes = (0, None, None, 0)
  moved = jax.jit(jax.vmap(step, axes, axis_name="students"))(
    states, learner.frozen, batch, keys
  )
  close(first_of(moved), expected)
  split = parallelize(
    sweep(learner.step),
    "shard_map",
    split={"state": 0, "key": 0},
    join=0,
    devices=DEVICES,
  )
  close(first_of(split(states, learner.frozen, batch, keys)), expected)


@pytest.mark.slow
def test_a_loss_by_hand_takes_the_axis_or_is_refused():
  """It would average the gradients of means over unequal parts."""

  def loss_fn(params, state, frozen, batch, key):
    value = masked_mean((batch["x"] @ params["student"]) ** 2, batch["mask"])
    return value, (state, {})

  def told(params, state, frozen, batch, key, *, axis_name=None):
    squares = (batch["x"] @ params["student"]) ** 2
    value = masked_mean(squares, batch["mask"], axis_name=axis_name)
    return value, (state, {})

  _, _, state, _ = reference("finetune")
  params = {"student": jnp.ones(WIDTH)}
  state = state._replace(
    params=params, state={}, optimizer_state=SGD.init(params)
  )
  expected = jax.jit(make_train_step(told, SGD))(state, {}, BATCH, KEY)
  for way in WAYS.values():
    right = make_train_step(told, SGD, axis_name="batch")
    close(way(right)(state, {}, BATCH, KEY), expected)
    wrong = make_train_step(loss_fn, SGD, axis_name="batch")
    with pytest.raises(
      ValueError, match=r"loss_fn takes no axis_name, and the step is mapped"
    ):
      way(wrong)(state, {}, BATCH, KEY)


@pytest.mark.slow
def test_a_forward_with_statistics_takes_the_axis_or_is_refused():
  def forward(variables, x, *, train, key):
    mean = x.mean(0) if train else variables.state
    return Outputs((x - mean) @ variables.params, {}, None), mean

  def told(variables, x, *, train, key, axis_name=None):
    mean = x.mean(0) if train else variables.state
    if train and axis_name is not None:
      mean = jax.lax.pmean(mean, axis_name)
    return Outputs((x - mean[None]) @ variables.params, {}, None), mean

  variables = Variables(jnp.eye(WIDTH)[:, :CLASSES], jnp.zeros(WIDTH))
  learner = distill(Model(told, variables), None, supervised, SGD, on="x")
  wrong = distill(Model(forward, variables), None, supervised, SGD, on="x")
  state = learner.init(KEY, BATCH)
  expected = jax.jit(learner.step)(state, {}, BATCH, KEY)
  for way in WAYS.values():
    step = functools.partial(learner.step, axis_name="batch")
    close(way(step)(state, {}, BATCH, KEY), expected)
    step = functools.partial(wrong.step, axis_name="batch")
    with pytest.raises(
      ValueError, match=r"student has a state, and its forward takes no axis_n"
    ):
      way(step)(state, {}, BATCH, KEY)


def test_counts_and_keys_in_a_state_stay_what_they_are():
  """The mean of integers over devices is no integer."""

  def forward(variables, x, *, train, key, axis_name=None):
    moved = variables.state | {"count": variables.state["count"] + 1}
    return Outputs(x @ variables.params, {}, None), moved

  start = {
    "count": jnp.array(0),
    "key": jax.random.key(3),
    "seen": jnp.array(True),
  }
  student = Model(forward, Variables(jnp.ones((WIDTH, CLASSES)), start))
  learner = distill(student, None, supervised, SGD, on="x")
  state = learner.init(KEY, BATCH)
  step = functools.partial(learner.step, axis_name="batch")
  moved, _ = sharded(step)(state, {}, BATCH, KEY)
  seen = moved.state["student"]
  assert jax.tree.map(lambda x: x.dtype, seen) == jax.tree.map(
    lambda x: x.dtype, start
  )
  assert (seen["count"], seen["seen"]) == (1, True)
  assert jnp.all(
    jax.random.key_data(seen["key"]) == jax.random.key_data(start["key"])
  )


@pytest.mark.slow
def test_the_old_silent_case():
  """A task that forgets the axis: a move of 2.175 instead of 1.942.

  An objective that names no axis of its own cannot forget it any more.
  """

  def loss(logits, labels):
    return (logits[:, 0] - labels) ** 2

  def forward(variables, x, *, train, key):
    return Outputs(x @ variables.params, {}, None), {}

  batch = {
    "image": jnp.array([[1.0], [2.0], [3.0], [4.0]]),
    "label": jnp.array([3.0, 1.0, 2.0, 0.0]),
    "mask": jnp.array([True, True, True, False]),
  }
  student = Model(forward, Variables(jnp.zeros((1, 1)), {}))
  learner = distill(student, None, stateless(loss), optax.sgd(1.0))
  state = learner.init(KEY, batch)
  moved = []
  for mode in ("jit", "pmap", "shard_map"):
    parallel = parallelize(learner, mode, devices=DEVICES)
    new, metrics = parallel.step(state, {}, batch, KEY)
    moved.append(float(new.params["student"][0, 0]))
    assert metrics["loss"][1] == 3
  # 2 (1 * 3 + 2 * 1 + 3 * 2) / 3; the mean of both parts' means would be
  # (2 (1 * 3 + 2 * 1) / 2 + 2 * 3 * 2) / 2 = 8.5.
  np.testing.assert_allclose(moved, [22 / 3] * 3, rtol=1e-6)


@pytest.mark.slow
def test_an_objective_by_hand_takes_an_axis():
  """One that has no such keyword says so on one device already."""

  def apply(params, state, outputs, batch, key):
    return jnp.sum(outputs["student"].logits), state, {}

  objective = Objective(lambda *_: ({}, {}), apply)
  learner = distill(nnx_model(), None, objective, SGD, on="x")
  state = learner.init(KEY, BATCH)
  with pytest.raises(TypeError, match="unexpected keyword argument 'axis_na"):
    learner.step(state, {}, BATCH, KEY)
