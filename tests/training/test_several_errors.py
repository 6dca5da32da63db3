"""What stands in the place of something else is named, and the place too."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from flax import nnx
from flax.core import FrozenDict

from kdjax.data import ArraySource
from kdjax.distillation import kd_loss
from kdjax.metrics import accuracy
from kdjax.metrics import expected_calibration_error
from kdjax.nets import MLP
from kdjax.nets import Outputs
from kdjax.objectives import combine
from kdjax.objectives import modular
from kdjax.objectives import select_logits_and_labels
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless
from kdjax.training import Model
from kdjax.training import TrainState
from kdjax.training import Variables
from kdjax.training import adaptation_loss
from kdjax.training import distillation_loss
from kdjax.training import dot
from kdjax.training import dot_objective
from kdjax.training import ensemble
from kdjax.training import epoch_plan
from kdjax.training import from_linen
from kdjax.training import from_nnx
from kdjax.training import grid
from kdjax.training import init_train_state
from kdjax.training import make_dot_step
from kdjax.training import make_eval_step
from kdjax.training import make_train_step
from kdjax.training import mean_metrics
from kdjax.training import parallelize
from kdjax.training import scan_epoch
from kdjax.training import scan_evaluation
from kdjax.training import stochastic_norms
from kdjax.training import sweep

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
OBJECTIVE = stateless(kd_loss, select_logits_and_labels)
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


def both_and_labels(student, teacher, batch):
  return student.logits, teacher.logits, batch["label"]


def start(model, objective=OBJECTIVE, optimizer=SGD, **options):
  return inspect.unwrap(init_train_state)(
    KEY, model, objective, optimizer, BATCH["image"], **options
  )


def loss(model, batch=BATCH, objective=OBJECTIVE, frozen=None, taught=True):
  """Traces a distillation loss."""
  teacher = model.forward if taught else None
  loss_fn = inspect.unwrap(distillation_loss)(model.forward, objective, teacher)
  state = start(model, objective, teacher=model)
  frozen = {"teacher": model.variables} if frozen is None else frozen
  return jax.eval_shape(
    lambda: loss_fn(state.params, state.state, frozen, batch, KEY)
  )


@pytest.mark.parametrize(
  ("batch", "words"),
  [
    (without("image"), r"^distillation_loss: batch has \['label', 'mask'\]; "),
    (without("mask"), r"^stateless: batch has .*; expected 'mask' too"),
    (without("label"), r"^select_logits_and_labels: batch has .* 'label' too"),
  ],
)
def test_a_batch_says_what_it_lacks(model, batch, words):
  with pytest.raises(ValueError, match=words):
    loss(model, batch)


def test_a_pair_is_no_batch(model):
  with pytest.raises(TypeError, match="batch is a tuple; expected a mapping"):
    loss(model, (BATCH["image"], BATCH["label"]))


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
    loss(model, BATCH | {"mask": mask})


def test_the_teacher_is_frozen_under_its_name(model):
  with pytest.raises(ValueError, match=r"loss: frozen has \[\]; .* 'teacher'"):
    loss(model, frozen={})
  with pytest.raises(TypeError, match=r"variables is a dict; expected Variab"):
    loss(model, frozen={"teacher": model.variables.params})
  other = from_nnx(module((3, 3))).variables
  with pytest.raises(ValueError, match=r"params has 6 arrays; expected 4"):
    loss(model, frozen={"teacher": other})


def test_an_objective_that_reads_a_teacher_needs_one(model):
  objective = stateless(kd_loss, both_and_labels)
  with pytest.raises(ValueError, match=r"loss: teacher is None, whose logits "):
    loss(model, objective=objective, taught=False)
  shaped = modular(lambda student, teacher, rngs: teacher.logits, kd_loss)
  with pytest.raises(ValueError, match=r"state: teacher is None, whose logits"):
    start(model, shaped)


@pytest.mark.parametrize("build", [distillation_loss, adaptation_loss])
def test_a_loss_is_built_of_forwards(model, build):
  name, build = build.__name__, inspect.unwrap(build)
  for wrong in (model, module(), model.variables):
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=f"{name}: student is a {kind}; expect"):
      build(wrong, OBJECTIVE)
    with pytest.raises(TypeError, match=f"{name}: teacher is a {kind}; expect"):
      build(model.forward, OBJECTIVE, wrong)
  with pytest.raises(TypeError, match=r"objective is a function; expected an"):
    build(model.forward, kd_loss)
  with pytest.raises(TypeError, match=r"views is a function; expected a mapp"):
    build(model.forward, OBJECTIVE, views=lambda key, batch: batch["image"])


def test_a_state_is_made_of_models(model):
  for wrong in (module(), model.forward, model.variables.params):
    kind = type(wrong).__name__
    with pytest.raises(
      TypeError, match=f"student is a {kind}; expected a Mode"
    ):
      start(wrong)
    with pytest.raises(
      TypeError, match=f"teacher is a {kind}; expected a Mode"
    ):
      start(model, teacher=wrong)
  with pytest.raises(TypeError, match=r"objective is a dict; expected an Obje"):
    start(model, {"kd": (1.0, OBJECTIVE)})
  for wrong, kind in ((1e-3, "float"), (optax.adam, "function")):
    with pytest.raises(
      TypeError, match=f"optimizer is a {kind}; expected an O"
    ):
      start(model, optimizer=wrong)


def test_a_forward_returns_outputs_and_a_state(model):
  def logits_alone(variables, inputs, *, train, key):
    return inputs.sum((1, 2))

  def no_outputs(variables, inputs, *, train, key):
    return inputs.sum((1, 2)), {}

  for forward, kinds in ((logits_alone, r"\w+"), (no_outputs, r"\w+, dict")):
    with pytest.raises(TypeError, match=rf"returned {kinds}; expected \(Outp"):
      start(Model(forward, Variables({}, {})))


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


def test_stochastic_norms_are_of_a_module(model):
  with pytest.raises(TypeError, match=r"model is a Model; expected an nnx.Mod"):
    inspect.unwrap(stochastic_norms)(model, rngs=nnx.Rngs(0))


def domains(**changes):
  target = {"image": jnp.ones((3, 2, 2, 1)), "mask": jnp.ones(3, bool)}
  return {"source": BATCH, "target": target | changes}


@pytest.mark.parametrize(
  ("batch", "words"),
  [
    (BATCH, r"batch has \['image', 'label', 'mask'\]; expected 'source' too"),
    ({"source": BATCH}, r"batch has \['source'\]; expected 'target' too"),
    (
      {"source": BATCH, "target": without("mask")},
      r"the target's batch has .* 'mask'",
    ),
    (domains(image=jnp.ones((3, 4, 4, 1))), r"but for the batch"),
  ],
)
def test_two_domains_say_what_they_lack(model, batch, words):
  objective = stateless(accuracy, select_supervised)
  loss_fn = adaptation_loss(model.forward, objective)
  state = start(model, objective)
  with pytest.raises(ValueError, match=f"adaptation_loss: .*{words}"):
    jax.eval_shape(lambda: loss_fn(state.params, state.state, {}, batch, KEY))


def evaluate(model, metrics, batch=BATCH, variables=None, teacher=None):
  evaluate = inspect.unwrap(make_eval_step)(model.forward, metrics, teacher)
  evaluate = inspect.unwrap(evaluate)
  variables = model.variables if variables is None else variables
  return jax.eval_shape(lambda: evaluate(variables, {}, batch))


def test_an_evaluation_names_what_it_was_given(model):
  right = {"accuracy": (accuracy, select_supervised)}
  for wrong in (start(model, teacher=model), model, model.variables.params):
    kind = type(wrong).__name__
    with pytest.raises(
      TypeError, match=f"variables is a {kind}; expected Vari"
    ):
      evaluate(model, right, variables=wrong)
  with pytest.raises(
    TypeError, match=r"student is a Model; expected a Model's"
  ):
    inspect.unwrap(make_eval_step)(model, right)
  with pytest.raises(
    TypeError, match=r"has \{'a': 'function'\}; expected name"
  ):
    evaluate(model, {"a": accuracy})
  with pytest.raises(TypeError, match=r"metrics is a list; expected name -> "):
    evaluate(model, [accuracy])
  with pytest.raises(ValueError, match=r"step: batch has .* 'mask' too"):
    evaluate(model, right, without("mask"))
  with pytest.raises(
    ValueError, match=r"step: frozen has \[\]; expected 'teac"
  ):
    evaluate(model, right, teacher=model.forward)
  with pytest.raises(
    ValueError, match=r"teacher is None, whose logits the obj"
  ):
    evaluate(model, {"kd": (kd_loss, both_and_labels)})


def test_a_metric_is_one_value_an_example(model):
  metrics = {"ece": (expected_calibration_error, select_supervised)}
  with pytest.raises(ValueError, match=r"^expected_cal\w+ returned shape \(\)"):
    evaluate(model, metrics)


@pytest.mark.parametrize("metrics", [{"loss": jnp.ones(2)}, [], ({}, {})])
def test_means_are_of_pairs(metrics):
  with pytest.raises(TypeError, match=r"expected name -> \(sum, count\)"):
    inspect.unwrap(mean_metrics)(metrics)


@pytest.mark.parametrize("make", [make_train_step, make_dot_step])
def test_a_step_is_made_of_a_loss_and_an_optimizer(model, make):
  make = inspect.unwrap(make)
  loss_fn = distillation_loss(model.forward, OBJECTIVE, model.forward)
  words = (
    r"parameters \(state, frozen, batch, key\); expected a function of \(p"
  )
  with pytest.raises(TypeError, match=words):
    make(make_train_step(loss_fn, SGD), SGD)
  with pytest.raises(
    TypeError, match=r"loss_fn is a Gradient\w+; expected a f"
  ):
    make(SGD, loss_fn)
  with pytest.raises(
    TypeError, match=r"optimizer is a float; expected an Opta"
  ):
    make(loss_fn, 0.1)


def step(model, make, objective, optimizer):
  loss_fn = distillation_loss(model.forward, objective, model.forward)
  state = start(model, objective, optimizer, teacher=model)
  frozen = {"teacher": model.variables}
  step = make(loss_fn, optimizer)
  return jax.eval_shape(lambda: step(state, frozen, BATCH, KEY))


def test_two_gradients_need_dot(model):
  """Another optimizer would leave the distillation out without a word."""
  both = dot_objective(OBJECTIVE, OBJECTIVE)
  with pytest.raises(ValueError, match=r"no two momenta; expected dot"):
    step(model, make_dot_step, both, optax.adam(0.1))
  with pytest.raises(
    ValueError, match=r"shape \(\); expected \[task, distilla"
  ):
    step(model, make_dot_step, OBJECTIVE, dot(0.1))
  with pytest.raises(
    ValueError, match=r"\(2,\); expected a scalar. The two of"
  ):
    step(model, make_train_step, both, SGD)


def test_a_state_is_of_the_objective(model):
  state, objective = (
    start(model, teacher=model),
    combine({"kd": (1, OBJECTIVE)}),
  )
  loss_fn = distillation_loss(model.forward, objective, model.forward)
  frozen = {"teacher": model.variables}
  with pytest.raises(ValueError, match=r"params has \[\]; expected 'kd' too"):
    loss_fn(state.params, state.state, frozen, BATCH, KEY)


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


def test_a_train_state_is_traced_as_before(model):
  """Specs, and states that are batched, pass all these checks."""
  states = jax.eval_shape(
    jax.vmap(
      lambda key: init_train_state(
        key,
        model,
        OBJECTIVE,
        SGD,
        jax.ShapeDtypeStruct((4, 2, 2, 1), jnp.float32),
        teacher=model,
      )
    ),
    jax.random.split(KEY, 3),
  )
  assert isinstance(states, TrainState)
  assert states.step.shape == (3,)


def test_what_only_looks_wrong_is_taken(model):
  """No signature, no shape before the trace, a target that is no domain."""
  make_train_step(getattr, SGD)
  points = jax.jit(lambda t: grid(temperature=[t, 2 * t], seed=(0, 1)))(1.0)
  assert points["temperature"].tolist() == [1.0, 1.0, 2.0, 2.0]
  assert grid(key=list(jax.random.split(KEY)))["key"].shape == (2,)
  target = stateless(
    lambda x, y, *, where=None, axis_name=None: jnp.mean((x - y) ** 2),
    lambda student, teacher, batch: (student.logits, batch["target"]),
  )
  outputs = model.forward(model.variables, BATCH["image"], train=True, key=KEY)
  batch = BATCH | {"target": outputs[0].logits}
  assert target.apply({}, {}, outputs[0], None, batch, KEY)[0] == 0


def test_an_example_counts_if_all_its_masks_say_so():
  """A domain's own mask beside that of a plan, whose last batch is padded."""

  def forward(variables, x, *, train, key):
    return Outputs(variables.params * x[:, None], {}, None), {}

  loss = stateless(lambda source, target: jnp.abs(source[:, 0]))
  step = make_train_step(adaptation_loss(forward, loss), SGD)
  state = TrainState(
    jnp.array(0),
    {"student": jnp.array(1.0), "objective": {}},
    {"student": {}, "objective": {}},
    SGD.init({"student": jnp.array(1.0), "objective": {}}),
  )
  domain = {"image": jnp.arange(3.0), "mask": jnp.array([True, False, True])}
  domains = FrozenDict(source=domain, target=domain)
  _, metrics = scan_epoch(step)(state, {}, domains, epoch_plan(3, 2), KEY)
  assert metrics["loss"][1].tolist() == [1, 1]
