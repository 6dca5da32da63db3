"""One batch gives one value and one gradient in every mode of JAX.

The table of docs/reliability.md shows the errors in float32. Here all is in
float64, where rounding cannot hide a factor.
"""

import contextlib
import inspect

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax import methods
from kdjax.distillation import kd_loss
from kdjax.fused import (
  fused_divergence,
  fused_linear_divergence,
  sparse_divergence,
)
from kdjax.metrics import negative_log_likelihood
from kdjax.ops import cross_entropy
from tests import calls, modes
from tests.methods import learners

# Of functions with `axis_name`; the rest of the slow tier asks of all.
TELLING = ["distillation.itrd_loss", "finetuning.key_queue_update"]
NETWORKS = [  # one of each kind of layers
  "resnet8",
  "imagenet-resnet50",
  "vgg8",
  "mobilenetv2",
  "shufflenetv2",
  "deit-tiny",
]
ALL = sorted(calls.calls())
MAPPED = sorted(name for name, call in calls.calls().items() if call.on_devices)


def parts(names, size=8):
  """Lists of names: one program each."""
  return [names[i : i + size] for i in range(0, len(names), size)]


EXPECTED = {}  # the results on one device, by name


def agree(names, mode, tolerance=1e-8):
  with jax.enable_x64(True):
    new = [name for name in names if name not in EXPECTED]
    EXPECTED.update(modes.results(new, None, np.float64) if new else {})
    results = modes.results(names, mode, np.float64)
  expected = {name: EXPECTED[name] for name in names}
  worst = {
    name: max(modes.errors(results[name], expected[name])) for name in names
  }
  # NaN is no agreement either.
  wrong = {
    name: error for name, error in worst.items() if not error <= tolerance
  }
  assert not wrong


def test_every_public_function_is_called():
  """A function is in the table by its signature, or listed in `NO_ARRAYS`.

  What annotations do not say belongs to `GIVEN` in tests/calls.py.
  """
  functions = dict(calls.public_functions())
  assert functions.keys() >= calls.NO_ARRAYS
  assert functions.keys() >= calls.GIVEN.keys()
  for name, call in calls.calls().items():
    known = {*call.arrays, *call.masks, *call.options, "axis_name"}
    for parameter in inspect.signature(call.function).parameters.values():
      optional = parameter.default is not inspect.Parameter.empty
      more = parameter.kind is inspect.Parameter.VAR_KEYWORD
      assert optional or more or parameter.name in known, (name, parameter.name)


def test_a_few_agree_on_four_devices():
  """The results are declared replicated, so `jax.shard_map` checks that too."""
  agree(TELLING, "shard_map")


@pytest.mark.slow
@pytest.mark.parametrize("names", parts(MAPPED), ids=lambda names: names[0])
def test_all_agree_on_four_devices(names):
  agree(names, "shard_map")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("names", "mode"),
  [(names, "vmap") for names in parts(MAPPED[::2])]
  + [(names, "pmap") for names in parts(MAPPED[1::6])],
  ids=lambda x: x if isinstance(x, str) else x[0],
)
def test_some_agree_under_vmap_and_pmap(names, mode):
  """The functions see the same axis; the table of docs has all."""
  agree(names, mode)


@pytest.mark.slow
@pytest.mark.parametrize("names", parts(ALL[::6]), ids=lambda names: names[0])
def test_a_sixth_agrees_on_explicit_axes(names):
  """Inside of a function the axes are Auto, so this asks for both kinds.

  The table of docs/reliability.md has all functions.
  """
  agree(names, "explicit", tolerance=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_all_can_be_traced_on_explicit_axes(name):
  assert modes.results([name], "explicit", run=modes.traced)


def test_a_few_can_be_traced_on_explicit_axes():
  names = ["distillation.rkd_loss", "generalization.mixup"]
  assert modes.results(names, "explicit", run=modes.traced).keys() == {*names}


@pytest.mark.slow
@pytest.mark.parametrize("with_context", [True, False])
def test_vocabularies_sharded_by_an_explicit_mesh(with_context):
  """Examples over one axis and classes over the other, and integer labels."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 8, 16)).astype(np.float32)
  hidden = rng.normal(size=(2, 8, 4)).astype(np.float32)
  heads = rng.normal(size=(2, 16, 4)).astype(np.float32)
  ids = np.argsort(logits[1], 1)[:, -3:]
  known = np.take_along_axis(np.array(jax.nn.log_softmax(logits[1])), ids, 1)
  arguments = (*logits, *hidden, *heads, ids, known, np.arange(8))

  @jax.jit
  def program(*arguments):
    def values(moving):
      student, student_hidden, student_head = moving
      _, teacher, _, teacher_hidden, _, teacher_head, ids, known, labels = (
        arguments
      )
      rows = (
        fused_divergence(student, teacher),
        fused_linear_divergence(
          student_hidden, student_head, teacher_hidden, teacher_head
        ),
        sparse_divergence(student, ids, known),
        kd_loss(student, teacher, labels),
        cross_entropy(student, labels),
        negative_log_likelihood(student, labels),
      )
      return sum(jnp.mean(x) for x in rows), rows

    return jax.value_and_grad(values, has_aux=True)(arguments[:6:2])

  expected = program(*arguments)
  mesh = jax.make_mesh((2, 2), ("data", "model"), (AxisType.Explicit,) * 2)
  both, of_rows, of_classes = P("data", "model"), P("data"), P("model")
  specs = [both] * 2 + [of_rows] * 2 + [of_classes] * 2 + [of_rows] * 3
  with jax.set_mesh(mesh) if with_context else contextlib.nullcontext():
    placed = [
      jax.device_put(x, NamedSharding(mesh, spec))
      for x, spec in zip(arguments, specs, strict=True)
    ]
    got = program(*placed)
  for x in got[0][1]:
    assert jax.typeof(x).sharding.spec == of_rows
  chex.assert_trees_all_close(
    jax.device_get(got), jax.device_get(expected), rtol=1e-5, atol=1e-7
  )


@pytest.mark.slow
def test_a_few_are_exported_with_a_symbolic_batch():
  """Value and gradient, for three platforms; what comes back runs."""
  name = "distillation.dkd_loss"
  call = calls.calls()[name]
  given = (modes.weights(call), *modes.arguments(call))
  restored = jax.export.deserialize(modes.exported(name))
  assert restored.platforms == modes.PLATFORMS
  (total, values), _ = restored.call(*given)
  np.testing.assert_allclose(total, np.sum(values), rtol=1e-5)
  np.testing.assert_allclose(values, call(given[1]), rtol=1e-5)
  assert modes.exported("fused.fused_divergence")


@pytest.mark.slow
@pytest.mark.parametrize("names", parts(ALL), ids=lambda names: names[0])
def test_all_are_exported(names):
  for name in names:
    assert modes.exported(name)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_networks_are_exported(name):
  assert modes.exported_network(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_each_kind_are_exported(name):
  size = 224 if "deit" in name else 32
  assert modes.exported_network(name, (size, size, 3))


def placed(name, batch, mesh):
  """The batch of a method, sharded over its examples."""

  def place(x, domain=None):
    row = methods.describe(name)
    many = row.area == "generalization" or (name, domain) == ("dael", "source")
    spec = P(*[None] * many, "data")
    return jax.device_put(x, NamedSharding(mesh, spec))

  if "mask" in batch:
    return jax.tree.map(place, batch)
  return {
    domain: jax.tree.map(lambda x, domain=domain: place(x, domain), rows)
    for domain, rows in batch.items()
  }


def step_on_explicit_axes(name):
  """The traced step of a method, and what it is to be called with."""
  learner, batch = learners.learner_of(name)
  state = learner.init(learners.KEY, batch)
  mesh = jax.make_mesh((2,), ("data",), (AxisType.Explicit,))
  arguments = state, learner.frozen, batch, learners.KEY
  with jax.set_mesh(mesh):
    sharded = state, learner.frozen, placed(name, batch, mesh), learners.KEY
    return jax.jit(learner.step).trace(*sharded), sharded, learner, arguments


@pytest.mark.slow
def test_the_step_of_a_method_knows_explicit_axes():
  traced = step_on_explicit_axes("erm")[0]
  for x in jax.tree.leaves(traced.out_info):
    assert not any(x.sharding.spec) if x.sharding else True


@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    name
    for name in methods.names()
    if methods.describe(name).area != "distillation"
  ][::2],
)
def test_steps_of_every_second_method_know_explicit_axes(name):
  assert step_on_explicit_axes(name)[0].jaxpr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dann", "fishr"])
def test_steps_are_the_same_on_explicit_axes(name):
  traced, sharded, learner, arguments = step_on_explicit_axes(name)
  got = traced.lower().compile()(*sharded)
  want = jax.jit(learner.step)(*arguments)
  chex.assert_trees_all_close(
    jax.device_get(got), jax.device_get(want), rtol=1e-4, atol=1e-5
  )
