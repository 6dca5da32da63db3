"""What stands in the place of something else is named, and the place too."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from kdjax.data import ArraySource
from kdjax.distillation import kd_loss
from kdjax.methods import Pass, combine, modular, stateless
from kdjax.metrics import accuracy
from kdjax.nets import MLP
from kdjax.training import (
  Model,
  TrainState,
  Variables,
  adapt,
  distill,
  ensemble,
  epoch_plan,
  finetune,
  from_linen,
  from_nnx,
  generalize,
  grid,
  make_eval_step,
  make_train_step,
  parallelize,
  pass_loss,
  scan_epoch,
  scan_evaluation,
  sweep,
)

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
OBJECTIVE = stateless(kd_loss)
BATCH = {
  "image": jnp.ones((4, 2, 2, 1)),
  "label": jnp.zeros(4, int),
  "mask": jnp.ones(4, bool),
}


def module(hidden=(3,)):
  return MLP(5, input_shape=(2, 2, 1), hidden=hidden, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def model():
  """Without beartype, whose words would come first."""
  network = from_nnx(module())
  return Model(inspect.unwrap(network.forward), network.variables)


def without(key, batch=BATCH):
  return {k: v for k, v in batch.items() if k != key}


def traced(learner, batch=BATCH, frozen=None, start=BATCH):
  """Traces a step from a state that a right batch has made."""
  state = jax.eval_shape(lambda: learner.init(KEY, start))
  frozen = learner.frozen if frozen is None else frozen
  return jax.eval_shape(
    lambda state: learner.step(state, frozen, batch, KEY), state
  )


def distillation(model, loss=OBJECTIVE, **options):
  return distill(model, model, loss, SGD, **options)


@pytest.mark.parametrize(
  ("batch", "words"),
  [
    (
      without("image"),
      r"^the loss: batch has \['label', 'mask'\]; expected 'i",
    ),
    (
      without("label"),
      r"^kd_loss reads 'labels', .* no entry of the batch \['",
    ),
  ],
)
def test_a_batch_says_what_it_lacks(model, batch, words):
  with pytest.raises(ValueError, match=words):
    traced(distillation(model), batch)


def test_a_pair_is_no_batch(model):
  with pytest.raises(TypeError, match="batch is a tuple; expected a mapping"):
    traced(distillation(model), (BATCH["image"], BATCH["label"]))


@pytest.mark.parametrize(
  ("mask", "words"),
  [
    (
      jnp.ones(4, int),
      r"^kd_loss: batch\['mask'\] is of int32; expected an ar",
    ),
    ([True] * 4, r"batch\['mask'\] is of list"),
  ],
)
def test_a_mask_is_an_array_of_bool(model, mask, words):
  with pytest.raises(TypeError, match=words):
    traced(distillation(model), BATCH | {"mask": mask})


def test_the_teacher_is_frozen_under_its_name(model):
  learner = distillation(model)
  with pytest.raises(ValueError, match=r"loss: frozen has \[\]; .* 'teacher'"):
    traced(learner, frozen={})
  with pytest.raises(TypeError, match=r"'teacher'\] is a dict; expected Var"):
    traced(learner, frozen={"teacher": model.variables.params})
  other = from_nnx(module((3, 3))).variables
  with pytest.raises(ValueError, match=r"params has 6 arrays; expected 4"):
    traced(learner, frozen={"teacher": other})


@pytest.mark.parametrize("compiled", [False, True])
def test_a_whole_model_is_no_teachers_variables(model, compiled):
  """Compiled too, where JAX would be the first to look at it."""
  learner = distillation(model)
  state = learner.init(KEY, BATCH)
  step = jax.jit(learner.step) if compiled else learner.step
  with pytest.raises(TypeError, match=r"'teacher'\] is a Model; expected Va"):
    step(state, {"teacher": model}, BATCH, KEY)


def test_an_objective_that_reads_a_teacher_needs_one(model):
  learner = distill(model, None, OBJECTIVE, SGD)
  words = r"kd_loss reads 'teacher_logits', .* Expected a teacher: give the le"
  with pytest.raises(ValueError, match=words):
    traced(learner)

  def build(teacher, rngs):
    return nnx.Linear(3, teacher.logits.shape[-1], rngs=rngs)

  shaped = modular(build, lambda part, student_logits: student_logits)
  with pytest.raises(ValueError, match=r"reads 'teacher', .* Expected a teach"):
    distill(model, None, shaped, SGD).init(KEY, BATCH)


FRONT_DOORS = {
  "distill": lambda student, optimizer: distill(
    student, None, OBJECTIVE, optimizer
  ),
  "adapt": lambda student, optimizer: adapt(student, OBJECTIVE, optimizer),
  "finetune": lambda student, optimizer: finetune(
    student, None, OBJECTIVE, optimizer
  ),
  "generalize": lambda student, optimizer: generalize(
    student, OBJECTIVE, optimizer
  ),
}


@pytest.mark.parametrize("door", FRONT_DOORS)
def test_a_learner_is_made_of_networks(model, door):
  make = FRONT_DOORS[door]
  for wrong in (model.forward, jax.tree.leaves(model.variables.params), 3):
    kind = type(wrong).__name__
    with pytest.raises(
      TypeError, match=rf"'student'\] is a {kind}; expected an"
    ):
      make(wrong, SGD)
  with pytest.raises(TypeError, match=r"a Linen module without variables; exp"):
    make(linen.Dense(3), SGD)


def test_a_forward_is_no_network_with_its_variables(model):
  """Modules can be called too, and so would pass for a forward."""
  for wrong in (module(), linen.Dense(3), None):
    kind = type(wrong).__name__
    with pytest.raises(
      TypeError, match=rf"forward is a {kind}; expected a Mod"
    ):
      distill(model._replace(forward=wrong), None, OBJECTIVE, SGD)


def test_a_forward_returns_outputs_and_a_state(model):
  def logits_alone(variables, inputs, *, train, key):
    return inputs.sum((1, 2))

  def no_outputs(variables, inputs, *, train, key):
    return inputs.sum((1, 2)), {}

  for forward, kinds in ((logits_alone, r"\w+"), (no_outputs, r"\w+, dict")):
    learner = distill(Model(forward, Variables({}, {})), None, OBJECTIVE, SGD)
    with pytest.raises(TypeError, match=rf"returned {kinds}; expected \(Outp"):
      learner.init(KEY, BATCH)


def test_a_module_returns_outputs_or_an_array():
  network = from_nnx(nnx.Sequential(lambda x: (x, x), lambda *x: x))
  with pytest.raises(TypeError, match=r"the module returned a tuple; expected"):
    network.forward(network.variables, jnp.ones(3), train=False, key=None)


def test_an_nnx_module_is_no_linen_module():
  with pytest.raises(TypeError, match=r"module is a MLP; expected a linen.Mod"):
    inspect.unwrap(from_linen)(module(), {"params": {}})
  with pytest.raises(TypeError, match=r"module is a dict; expected a linen.Mo"):
    inspect.unwrap(from_linen)({"params": {}}, linen.Dense(2))


def test_an_ensemble_is_of_models(model):
  with pytest.raises(TypeError, match=r"models is a Model; expected a sequenc"):
    inspect.unwrap(ensemble)(model)
  with pytest.raises(
    TypeError, match=r"models\[1\] is a MLP; expected a Model"
  ):
    inspect.unwrap(ensemble)([model, module()])


def evaluated(model, metrics, batch=BATCH, teacher=True, state=None):
  learner = distill(
    model, model if teacher else None, OBJECTIVE, SGD, metrics={}
  )
  passes = {"student": Pass("student", "image")}
  if teacher:
    passes["teacher"] = Pass("teacher", "image")
  loss_fn = pass_loss(
    {"student": model.forward, "teacher": model.forward}, passes, OBJECTIVE
  )
  evaluate = inspect.unwrap(make_eval_step)(loss_fn, metrics)
  if state is None:
    state = TrainState(
      jnp.array(0),
      {"student": model.variables.params, "objective": {}},
      {"student": model.variables.state, "objective": {}},
      (),
    )
  return jax.eval_shape(
    lambda: evaluate(state, learner.frozen if teacher else {}, batch)
  )


def test_an_evaluation_names_what_it_was_given(model):
  right = {"accuracy": accuracy}
  assert set(evaluated(model, {"a": (accuracy, ("logits", "labels"))})) == {"a"}
  for wrong, words in (
    ({"a": 3}, r"the metric a is 3; expected a function of arrays, or \(func"),
    ({"a": (accuracy,)}, r"the metric a is \(<.*; expected a function of arr"),
    ([accuracy], r"metrics is a list; expected a mapping, name -> function"),
  ):
    with pytest.raises(TypeError, match=words):
      evaluated(model, wrong)
  assert set(evaluated(model, right, without("mask"))) == {"accuracy"}
  with pytest.raises(
    ValueError, match=r"reads 'teacher_logits', .* Expected a"
  ):
    evaluated(model, {"kd": kd_loss}, teacher=False)


def test_a_metric_is_one_value_an_example(model):
  def best(logits):
    return jnp.max(logits)

  with pytest.raises(ValueError, match=r"^best returned shape \(\); expected"):
    evaluated(model, {"best": best})


def test_a_step_is_made_of_a_loss_and_an_optimizer(model):
  make = inspect.unwrap(make_train_step)
  learner = distillation(model)
  words = (
    r"parameters \(state, frozen, batch, key.*\); expected a function of \(p"
  )
  with pytest.raises(TypeError, match=words):
    make(learner.step, SGD)
  with pytest.raises(
    TypeError, match=r"loss_fn is a Gradient\w+; expected a f"
  ):
    make(SGD, learner.loss_fn)
  for wrong, kind in ((0.1, "float"), (optax.adam, "function")):
    with pytest.raises(
      TypeError, match=f"optimizer is a {kind}; expected an Opta"
    ):
      make(learner.loss_fn, wrong)


def test_a_state_is_of_the_objective(model):
  other = distillation(model, combine({"kd": (1, OBJECTIVE)}))
  state = distillation(model).init(KEY, BATCH)
  with pytest.raises(ValueError, match=r"params has \[\]; expected 'kd' too"):
    other.step(state, other.frozen, BATCH, KEY)


def count(state, frozen, batch, key):
  return state + jnp.sum(batch["x"], where=batch["mask"]), {}


@pytest.mark.parametrize(
  ("error", "data", "plan", "words"),
  [
    (
      TypeError,
      (jnp.ones(5),),
      None,
      r"data is a tuple; expected a dictionary",
    ),
    (
      TypeError,
      ArraySource(np.ones((5, 1, 1, 1)), np.ones(5, int)),
      None,
      r"data is a ArraySource; expected a dictionary",
    ),
    (TypeError, {"x": jnp.ones(5)}, 2, r"plan is a int; expected a mapping"),
    (ValueError, {}, {"x": jnp.ones(5)}, r"plan has \['x'\]; expected 'index'"),
    (
      ValueError,
      {"x": jnp.ones(5), "y": jnp.ones(3)},
      None,
      r"data has the shapes .*\(3,\)\}; expected \[examples, ...\], of as",
    ),
  ],
)
def test_an_epoch_has_data_and_a_plan(error, data, plan, words):
  """JAX clips an index beyond the end: a short array's last would count."""
  plan = epoch_plan(5, 2) if plan is None else plan
  with pytest.raises(error, match=f"scan_epoch: {words}"):
    scan_epoch(count)(0.0, {}, data, plan, KEY)
  with pytest.raises(error, match=f"scan_evaluation: {words}"):
    scan_evaluation(lambda *_: {})({}, {}, data, plan)


def test_an_epoch_takes_numpy_arrays_without_jit():
  data = {"x": np.arange(5.0)}
  state, _ = scan_epoch(count)(0.0, {}, data, epoch_plan(5, 2), KEY)
  assert state == 10


def test_a_plan_is_of_integers():
  with pytest.raises(TypeError, match=r"epoch_plan: batch_size is 6.0; expect"):
    inspect.unwrap(epoch_plan)(20, 6.0)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_students_have_one_leading_axis(chunk_size):
  swept = sweep(lambda state, key: state + key, chunk_size=chunk_size)
  for state, words in (
    (0.0, r"state has an array of shape \(\); expected a leading axis of stud"),
    (jnp.ones(3), r"key has an array of shape \(4,\); .* students, 3 of state"),
  ):
    with pytest.raises(ValueError, match=words):
      swept(state, jnp.ones(4))
  np.testing.assert_array_equal(swept(key=jnp.ones(4), state=jnp.ones(4)), 2)


def test_what_is_shared_is_a_collection():
  """A string has the name of each of its parts."""
  with pytest.raises(
    TypeError, match=r"shared is 'frozen'; expected \('frozen"
  ):
    sweep(count, shared="frozen")
  with pytest.raises(ValueError, match=r"sweep: all is shared"):
    sweep(lambda batch: batch)(jnp.ones(3))


@pytest.mark.parametrize("values", [3, "abc", (), iter((1,))])
def test_a_grid_is_of_sequences(values):
  with pytest.raises(
    ValueError, match=r"seed is .*; expected at least one val"
  ):
    inspect.unwrap(grid)(seed=values)


def test_a_number_cannot_be_split_over_devices():
  with pytest.raises(
    ValueError, match=r"batch has an array of shape \(\); exp"
  ):
    parallelize(lambda batch: batch, "jit")({"n": 3})


def test_what_only_looks_wrong_is_taken(model):
  """No signature, no shape before the trace, a target that is no domain."""
  make_train_step(getattr, SGD)
  points = jax.jit(lambda t: grid(temperature=[t, 2 * t], seed=(0, 1)))(1.0)
  assert points["temperature"].tolist() == [1.0, 1.0, 2.0, 2.0]
  assert grid(key=list(jax.random.split(KEY)))["key"].shape == (2,)

  def squares(student_logits, target, *, where=None, axis_name=None):
    return jnp.mean((student_logits - target) ** 2)

  outputs, _ = model.forward(
    model.variables, BATCH["image"], train=True, key=KEY
  )
  batch = BATCH | {"target": outputs.logits}
  objective = stateless(squares)
  loss, _, _ = objective.apply({}, {}, {"student": outputs}, batch, KEY)
  assert loss == 0
