"""NaN in an input that counts makes the value NaN, for every public function.

Small and large batches differ: XLA's CPU backend vectorizes loops of some
hundred rows, and its vectorized maximum drops NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import metrics, ops
from tests import documented

ROWS = 4096  # of batches
PARTS = 40  # pytest-xdist starts files with many tests first
# Memory or time grows with the square or the cube of the rows.
FEWER_ROWS = {
  "adaptation.deepjdot_loss": 512,
  "adaptation.entropic_wasserstein": 512,
  "adaptation.h_divergence": 512,
  "adaptation.sinkhorn_divergence": 512,
  "distillation.rkd_loss": 256,
  "distillation.irg_loss": 512,
  "collaboration.refilled_relation_loss": 64,
  "reweighting.kmm_weights": 256,
  "transforms.joint_distribution_adaptation": 256,
  "transforms.tca": 256,
}
# Functions and arguments in which NaN has a meaning, or of which one entry need
# not count. "all" asks for NaN if all entries are NaN.
MEANING = {
  ("finetuning.contrastive_cross_entropy_loss", "head"): "all",  # a class
  ("finetuning.key_queue_update", "keys"): "all",  # only the newest stay
  ("finetuning.key_queue_update", "state"): None,  # the oldest go
  ("adaptation.self_tuning_update", "keys"): "all",
  ("adaptation.self_tuning_update", "queue"): None,
  ("transforms.adabn_normalize", "statistics"): None,  # the count has no part
  ("continual.reservoir_init", "examples"): None,  # only their shapes count
  ("continual.reservoir_update", "state"): None,  # the memory gives places up
  ("continual.si_penalty", "state"): None,  # a part is of the next task
  ("federated.fedntd_loss", "student_logits"): "all",
  ("federated.fedntd_loss", "global_logits"): "all",  # but the label's own
  ("selection.reverse_validation", "source"): None,  # the caller reads it
  ("selection.reverse_validation", "target"): None,
  ("selection.reverse_validation", "variables"): None,
  ("reweighting.tradaboost_update", "state"): None,  # not all of it counts
  # NaN marks a checkpoint that does not exist.
  ("selection.leave_one_domain_out_selection", "accuracies"): None,
  ("selection.oracle_selection", "accuracies"): None,
  ("selection.training_domain_selection", "accuracies"): None,
  # NaN logits are a wrong answer: a metric counts them.
  ("metrics.accuracy", "logits"): None,
  (
    "language.next_token_log_probs",
    "log_probs",
  ): "all",  # not the first
  ("metrics.agreement", "student_logits"): None,
  ("metrics.agreement", "teacher_logits"): None,
  # Only the learner of the caller reads the features.
  **{
    (f"reweighting.{name}", argument): None
    for name in ("tradaboost", "tradaboost_r2", "two_stage_tradaboost_r2")
    for argument in ("source", "target", "queries")
  },
}
# One for each way to lose NaN: a maximum, a bound, a rank, a threshold, a
# choice, a decomposition, a solver.
TELLING = (
  "adaptation.fixmatch_loss",
  "adaptation.mdd_loss",
  "distillation.cwsm_temperature",
  "distillation.itrd_correlation_loss",
  "finetuning.prototypical_loss",
  "metrics.cka",
  "metrics.negative_log_likelihood",
  "metrics.reliability_curve",
  "selection.transrate",
)


@pytest.mark.parametrize("name", TELLING)
def test_in_many_rows(name):
  _ask(documented.recorded_call(name), 4096)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_in_every_function(part):
  """The examples of all docstrings run once, before the first part.

  On few rows XLA's code for a CPU keeps NaN where it loses it on many.
  """
  lost = []
  for name, call in list(documented.recorded().items())[part::PARTS]:
    try:
      _ask(call, FEWER_ROWS.get(name, ROWS))
    except AssertionError as error:
      lost.append(str(error))
    jax.clear_caches()
  assert not lost, "\n".join(lost)


def _ask(call, rows):
  """Puts NaN into each float array of the call, one after the other."""
  name = f"{call.area}.{call.name}"
  for bigger in (documented.with_rows(call, rows), call):
    leaves, structure = jax.tree.flatten_with_path(bigger.arguments)
    paths = [path for path, _ in leaves]
    leaves = [leaf for _, leaf in leaves]
    floating = [i for i, x in enumerate(leaves) if documented.is_float(x)]

    def run(arrays, leaves=leaves, floating=floating, structure=structure):
      leaves = list(leaves)
      for i, x in zip(floating, arrays, strict=True):
        leaves[i] = x
      return call(**structure.unflatten(leaves))

    arrays = [leaves[i] for i in floating]
    if not arrays:
      return
    try:
      compiled = jax.jit(run)
      value = compiled(arrays)
    except (TypeError, jax.errors.JAXTypeError):  # It reads values.
      compiled = run
      value = compiled(arrays)
    except ValueError:  # The annotations do not tell all axes of examples.
      continue
    break
  results = [x for x in jax.tree.leaves(value) if _is_float(x)]
  if not results:  # Labels and masks cannot be NaN.
    return
  assert not _has_nan(results), f"{name}: the example is NaN"
  for place, i in enumerate(floating):
    argument = paths[i][0].key
    meaning = MEANING.get((name, argument), "one")
    if meaning is None or not arrays[place].size:
      continue
    spoiled = np.array(arrays[place])
    if meaning == "all":
      spoiled[...] = np.nan
    else:
      spoiled.reshape(-1)[spoiled.size // 2] = np.nan
    changed = [*arrays]
    changed[place] = jnp.asarray(spoiled)
    results = [x for x in jax.tree.leaves(compiled(changed)) if _is_float(x)]
    assert _has_nan(results), (
      f"{name}: NaN in {argument} {spoiled.shape} is lost: "
      f"{[np.asarray(x).ravel()[:3] for x in results[:2]]}"
    )


def _is_float(x):
  return isinstance(x, float) or documented.is_float(x)


def _has_nan(results):
  return any(np.any(np.isnan(x)) for x in results)


def test_reductions():
  """As `jnp.max` and its like for numbers, with their gradients."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4096, 6)).astype(np.float32)
  x[:, 3] = x[:, 0]
  spoiled = x.copy()
  spoiled[77, 2] = np.nan
  where = rng.uniform(size=x.shape) < 0.9
  where[77, 2] = True
  pairs = [
    (lambda f, x: f(x, -1), ops.largest, jnp.max),
    (lambda f, x: f(x, 0, keepdims=True), ops.smallest, jnp.min),
    (
      lambda f, x: f(x, -1, where=where, initial=-jnp.inf),
      ops.largest,
      jnp.max,
    ),
    (lambda f, x: f(x, 0.3).sum(-1), ops.at_least, jnp.maximum),
    (lambda f, x: f(x, x[:, :1]).sum(-1), ops.at_most, jnp.minimum),
  ]
  for call, ours, theirs in pairs:

    def run(x, function, call=call):
      value, pullback = jax.vjp(lambda x: call(function, x), x)
      return value, pullback(jnp.ones_like(value))[0]

    run = jax.jit(run, static_argnums=1)
    for one, other in zip(run(x, ours), run(x, theirs), strict=True):
      np.testing.assert_array_equal(one, other)
    lost = np.isnan(run(spoiled, ours)[0])
    assert lost.sum() == 1
  flags = jax.jit(ops.keep_nan)(jnp.ones(4096), spoiled)
  np.testing.assert_array_equal(np.isnan(flags), np.arange(4096) == 77)
  assert jax.jit(ops.any_nan)(x, spoiled)
  assert not jax.jit(ops.any_nan)(x)


def test_softmax_of_a_row_with_nan():
  rows = np.zeros((4096, 3), np.float32)
  rows[5, 1] = np.nan
  for function in (ops.softened_softmax, ops.log_softened_softmax):
    lost = np.isnan(jax.jit(function)(rows)).all(1)
    np.testing.assert_array_equal(lost, np.arange(4096) == 5)
  losses = metrics.negative_log_likelihood(rows, np.zeros(4096, int))
  np.testing.assert_array_equal(np.isnan(losses), np.arange(4096) == 5)
