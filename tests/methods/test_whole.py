"""Every method makes a step of its own, or names what it lacks."""

import functools

import jax
import numpy as np
import optax
import pytest
from jax.interpreters import partial_eval

from kdjax import methods
from tests.methods.learners import KEY, facts_of, learner_of, method_of

# Area -> the method that adds nothing to training.
BASELINES = {
  "distillation": "scratch",
  "adaptation": "source_only",
  "generalization": "erm",
  "finetuning": "finetune",
  "continual": "sequential",
  "collaboration": "scratch",
  "federated": "fedavg",
  "cross_modal": "scratch",
  "language": "seqkd",
}
# Methods whose step is that of plain training: the baselines themselves, and
# those that differ in the weights or in the data that they start with.
PLAIN = {*BASELINES.values(), "independent", "clip", "from_scratch"}
PLAIN |= {"target_only"}
# Penalties of what a first task has not left yet: importance, past answers.
OF_LATER_TASKS = {"ewc", "si", "task_lwf"}


def baseline_of(name):
  """The plain training of the networks that a method trains."""
  trained = method_of(name).trained
  if "peer_0" in trained:
    return "independent"
  row = methods.describe(name)
  if row.area == "cross_modal" and row.networks != ("teacher",):
    return "clip"
  return BASELINES[methods.describe(name).area]


def effect(learner, batch):
  """The computation of the networks' next parameters, without dead code."""
  state = jax.eval_shape(learner.init, KEY, batch)
  whole = dict(state.params)
  own = {"objective": whole.pop("objective")}

  def moved(params, own, state, frozen, batch, key):
    state = state._replace(params=params | own)
    after = learner.step(state, frozen, batch, key)[0].params
    return {k: v for k, v in after.items() if k != "objective"}

  closed = jax.make_jaxpr(moved)(whole, own, state, learner.frozen, batch, KEY)
  jaxpr, _ = partial_eval.dce_jaxpr(
    closed.jaxpr, [True] * len(closed.jaxpr.outvars)
  )
  # Names of variables and of inputs that nothing reads do not count.
  text = jaxpr.pretty_print(use_color=False)
  return text.partition(".")[2]


def plain_method(name):
  """The baseline of a method, on inputs of the method's form."""
  plain, own = method_of(baseline_of(name)), method_of(name).passes
  if not plain.passes.keys() & own.keys():  # the parts of an episode
    return plain._replace(passes=own)
  return plain._replace(
    passes={k: own.get(k, v) for k, v in plain.passes.items()}
  )


@functools.cache
def plain_effect(name):
  """What the baseline of a method does with its networks and its batch."""
  learner, batch = learner_of(name, of=plain_method(name))
  return effect(learner, batch)


def differs(name):
  """Whether a method does something else than the baseline of its area."""
  learner, batch = learner_of(name)
  whole = methods.create(name, **facts_of(name))
  if whole.data is not None or set(whole.before) - {"source"}:
    return True
  return effect(learner, batch) != plain_effect(name)


def some_quick(names, every):
  """Names of which the quick tier asks one of `every`."""
  return [
    pytest.param(name, marks=[pytest.mark.slow] if i % every else [])
    for i, name in enumerate(names)
  ]


@pytest.mark.parametrize("name", some_quick(methods.names(), 5))
def test_a_step_is_not_that_of_plain_training(name):
  assert differs(name) == (name not in PLAIN)


@pytest.mark.parametrize("name", methods.names())
def test_a_method_without_facts_is_whole_or_names_what_it_lacks(name):
  """Nobody gets less than the published method without a word."""
  method, error = None, f"create: {name} made; expected"
  try:
    method = methods.create(name)
  except ValueError as caught:
    error = str(caught)
  assert error.startswith(f"create: {name} ")
  assert "expected" in error
  if method is None:
    return
  assert method.objective is not None
  assert method.name == name
  row = methods.describe(name)
  assert set(row.views) <= set(method.needs.views)
  assert ("source" in method.before) == (row.start == "source")
  assert ("initialization" in method.before) == bool(row.initialization)


_OF_THREE = [x for x in methods.names() if x not in PLAIN | OF_LATER_TASKS]


@pytest.mark.slow
@pytest.mark.parametrize("name", _OF_THREE)
def test_three_steps_leave_other_weights_than_plain_training(name):
  whole = methods.create(name, **facts_of(name))
  if whole.data is not None or set(whole.before) - {"source"}:
    return

  def trained(of):
    learner, batch = learner_of(name, optimizer=optax.sgd(0.1), of=of)
    state = jax.jit(learner.init)(KEY, batch)
    step = jax.jit(learner.step)
    for _ in range(3):
      state, _ = step(state, learner.frozen, batch, KEY)
    return {k: v for k, v in state.params.items() if k != "objective"}

  one, other = (
    jax.tree.leaves(trained(of)) for of in (None, plain_method(name))
  )
  same = len(one) == len(other) and all(
    a.shape == b.shape and np.array_equal(a, b)
    for a, b in zip(one, other, strict=True)
  )
  assert not same
