"""Every method of distillation trains, on one device and on eight."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax import methods
from kdjax.methods.distillation._published_pairs import _PAIRS
from kdjax.nets import Outputs
from kdjax.nets._create import _NETWORKS

EXAMPLES, CLASSES = 16, 6
KEY = jax.random.key(0)
BATCH = {
  "mask": jnp.arange(EXAMPLES) < 13,
  "label": jnp.arange(EXAMPLES) % CLASSES,
  "index": 2 * jnp.arange(EXAMPLES),
}
DISTILLATION = methods.names("distillation")
# What it draws depends on how many examples a device has.
DRAWS = {"mgd", "vitkd"}


def outputs(widths, seed):
  """Outputs of a network of two stages or three, as a CNN returns them."""
  rng = np.random.default_rng(seed)
  sizes = (4, 4, 2)[-len(widths) :]

  def draw(*shape):
    return jnp.float32(rng.normal(size=shape))

  preactivations = {
    f"f{i}": draw(EXAMPLES, size, size, width)
    for i, (size, width) in enumerate(zip(sizes, widths, strict=True))
  }
  features = jax.tree.map(jax.nn.relu, preactivations)
  embedding = features[max(features)].mean((1, 2))
  kernel, bias = draw(widths[-1], CLASSES), draw(CLASSES)
  return Outputs(
    logits=3 * embedding @ kernel + bias[None],
    features=features,
    embedding=embedding,
    preactivations=preactivations,
    normalizations={
      name: (draw(x.shape[-1]), jnp.abs(draw(x.shape[-1])))
      for name, x in features.items()
    },
    attention={"f0": jax.nn.softmax(draw(EXAMPLES, 2, 5, 5))},
    classifier=(kernel, bias),
  )


def seen(widths, seed, role, views):
  """Outputs of the role and of its views, each a role of its own."""
  roles = [role, *(f"{role}_{view}" for view in views)]
  return {r: outputs(widths, seed + 10 * i) for i, r in enumerate(roles)}


def given_to(name):
  """The outputs that a method reads, by role."""
  row, flow = methods.describe(name), name in {"fsp", "kdsvd"}
  widths = (4, 6, 8) if flow else (4, 8)
  given = seen(widths, 0, "student", row.views)
  if "teacher" in row.networks:
    widths = (4, 6, 8) if flow else (4, 10)
    given |= seen(widths, 1, "teacher", row.views)
  return given


def method_of(name):
  """A method with the facts that it needs here."""
  return methods.create(name, steps_per_epoch=5, num_examples=2 * EXAMPLES)


def objective_of(name):
  """What a method minimizes."""
  return method_of(name).objective


def step(objective, axis_name, params, state, given, batch):
  """The value, and gradients by parameters and by weights of the student."""

  def loss(params, scale):
    def scaled(x):
      return x * scale if x.shape[:1] == batch["mask"].shape else x

    moved = {
      role: jax.tree.map(scaled, x) if role.startswith("student") else x
      for role, x in given.items()
    }
    value, moved_state, metrics = objective.apply(
      params, state, moved, batch, KEY, axis_name=axis_name
    )
    return value, (moved_state, metrics)

  (value, aux), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
    params, jnp.float32(1.1)
  )
  if axis_name is not None:
    gradients = jax.lax.pmean(gradients, axis_name)
    aux = aux[0], jax.lax.psum(aux[1], axis_name)
  return value, gradients, aux


@pytest.mark.parametrize("name", DISTILLATION[::2])
def test_a_step_can_be_traced(name):
  """Every second one; the slow tier trains all."""
  row = methods.describe(name)
  if row.group == "tokens":
    pytest.skip("for transformers")
  given = given_to(name)
  objective = objective_of(name)
  params, state = jax.eval_shape(objective.init, KEY, given)
  value, (by_params, _), (moved, _) = jax.eval_shape(
    functools.partial(step, objective, None), params, state, given, BATCH
  )
  assert value.shape == ()
  assert jax.tree.structure(moved) == jax.tree.structure(state)
  assert jax.tree.structure(by_params) == jax.tree.structure(params)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTILLATION)
def test_trains(name):
  row = methods.describe(name)
  if row.group == "tokens":
    pytest.skip("for transformers")
  given = given_to(name)
  objective = objective_of(name)

  @jax.jit
  def first_step():  # of constants: what needs no parameters is never compiled
    params, state = objective.init(KEY, given)
    taken = step(objective, None, params, state, given, BATCH)
    return (params, state), taken

  (params, state), expected = first_step()
  arguments = params, state, given
  _, (by_params, by_scale), (moved, metrics) = expected
  for leaf in jax.tree.leaves(expected):
    assert np.all(np.isfinite(leaf))
  assert by_scale != 0
  assert jax.tree.structure(moved) == jax.tree.structure(state)
  assert jax.tree.structure(by_params) == jax.tree.structure(params)
  for total, count in metrics.values():
    assert count == 13
    assert np.isfinite(total)
  # The laws of the losses see to what has no parts.
  if name in DRAWS or not jax.tree.leaves(params):
    return
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )

  def sharding(tree):
    return jax.tree.map(
      lambda x: P("batch") if x.shape[:1] == (EXAMPLES,) else P(), tree
    )

  sharded = jax.shard_map(
    functools.partial(step, objective, "batch"),
    mesh=mesh,
    in_specs=(P(), P(), sharding(given), P("batch")),
    out_specs=P(),
  )
  got = jax.jit(sharded)(*arguments, BATCH)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    scale = np.max(np.abs(b), initial=1e-3)
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * scale)


@pytest.mark.parametrize("name", methods.names())
def test_a_row_says_what_it_is_and_what_it_needs(name):
  """In words for a list of methods, one line each."""
  row = methods.describe(name)
  assert row.title
  assert row.summary
  assert row.summary[-1] != "."
  assert len(row.summary) <= 80
  assert "\n" not in row.summary
  assert isinstance(row.networks, tuple)
  assert isinstance(row.views, tuple)
  assert bool(row.initialization) == bool(row.initialization_epochs)
  if row.area == "distillation":
    assert row.source
    assert not row.start
    assert row.group in ("logits", "features", "relations", "tokens")
    assert set(row.networks) <= {"teacher"}
    assert not row.domains
    reads_teacher = row.kd > 0 or row.initialization is not None
    assert not reads_teacher or "teacher" in row.networks


def test_the_table_says_what_the_authors_weigh():
  """As RepDistiller's and mdistiller's scripts have it."""
  for name, (ce, kd, weight) in {
    "kd": (0.1, 0.9, None),
  }.items():
    row = methods.describe(name)
    assert (row.cross_entropy, row.kd) == (ce, kd)
    assert weight is None or row.weight == weight
    assert row.source
    assert not row.start


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTILLATION)
def test_logits_alone_are_enough_or_what_lacks_is_named(name):
  bare = dict.fromkeys(
    ("student", "teacher"), Outputs(jnp.zeros((EXAMPLES, CLASSES)), {}, None)
  )
  method = method_of(name)
  for own in (method, *method.before.values()):
    objective = own.objective
    error = "student has no fault"
    try:
      params, state = jax.eval_shape(objective.init, KEY, bare)
      jax.eval_shape(objective.apply, params, state, bare, BATCH, KEY)
    except ValueError as caught:
      error = str(caught)
    assert re.search("has (no|features \\[])|Expected the view", error)


def test_a_name_that_is_none_is_refused():
  with pytest.raises(ValueError, match="name is 'kdd'; expected one of"):
    methods.create("kdd")
  with pytest.raises(ValueError, match="area is 'vision'; expected one of"):
    methods.names("vision")


def test_a_hyperparameter_that_a_method_lacks_is_refused():
  kd = methods.create("kd", temperature=2.0).objective
  state = jax.eval_shape(lambda: kd.init(KEY, {}))
  assert "temperature" in state[1]["objectives"]["kd"]
  with pytest.raises(ValueError, match="'alpha'; expected only temperature"):
    methods.create("kd", alpha=0.5)
  with pytest.raises(ValueError, match="no hyper-parameter 'gamma'; expected"):
    methods.create("scratch", gamma=1.0)


def test_a_stage_before_has_an_objective_of_its_own():
  both = dict.fromkeys(("student", "teacher"), outputs((4, 8), 0))
  ft = methods.create("ft")
  first = ft.before["initialization"].objective
  params, _ = jax.eval_shape(lambda: first.init(KEY, both))
  after, _ = jax.eval_shape(lambda: ft.objective.init(KEY, both))
  assert jax.tree.structure(params) == jax.tree.structure(after["ft"])
  assert not methods.create("kd").before


def test_weights_of_a_pair():
  def state_of(name, pair, **options):
    method = methods.create(name, pair=pair, steps_per_epoch=1, **options)
    return method.objective.init(KEY, {})[1]

  def number(state, name, hyperparameter):
    return state["objectives"][name][hyperparameter]

  pair = "resnet110", "resnet20"
  state = state_of("lskd", pair)
  assert state["weights"]["lskd"] == 12
  assert number(state, "lskd", "temperature") == 4
  warm = state_of("lskd", pair, temperature=1.0)
  assert number(warm, "lskd", "temperature") == 1
  assert state_of("lskd", pair[::-1])["weights"]["lskd"] == 9
  assert number(state_of("dkd", ("vgg13", "vgg8")), "dkd", "beta") == 6
  assert number(state_of("dkd", None), "dkd", "beta") == 8


def test_pairs_name_methods_and_networks():
  names = set()
  for method, pairs in _PAIRS.items():
    for pair in pairs:
      methods.create(method, pair=pair, steps_per_epoch=1)
      names.update(pair)
  assert names <= set(_NETWORKS)
