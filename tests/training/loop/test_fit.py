"""The loop over a learner: all kinds of data, students and devices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from kdjax import training
from kdjax.methods import combine, stateless
from kdjax.nets import Outputs
from kdjax.training.loop._diagnostics import gradient_cosine_of
from tests.training.loop import fit_runs
from tests.training.loop.fit_runs import BATCH, CLASSES, PIXELS, arrays, learner

KEY = jax.random.key(0)
STEPS = 12
TRAIN, HELD_OUT = arrays(), arrays(10, seed=1)


def assert_equal(actual, expected, tolerance=0.0):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=tolerance, atol=tolerance
    ),
    actual,
    expected,
  )


def fit(own=None, data=None, **options):
  return training.fit(
    own or learner(),
    TRAIN if data is None else data,
    **(
      {"batch_size": BATCH, "steps": 2, "key": KEY, "diagnostics": False}
      | options
    ),
  )


@pytest.fixture(scope="module")
def scanned():
  """What the tests compare with: one device, all data on it."""
  return fit(steps=STEPS, evaluate_every=5, validation=HELD_OUT)


def test_the_loop_is_the_step_in_the_order_of_the_key(scanned):
  own = learner()
  init_key, order_key, step_key = jax.random.split(KEY, 3)
  order_key = jax.random.fold_in(order_key, 0)
  state, step, sums = None, jax.jit(own.step), []
  for i in range(STEPS):
    epoch, row = divmod(i, 4)
    plan = training.epoch_plan(
      len(TRAIN["label"]), BATCH, key=jax.random.fold_in(order_key, epoch)
    )
    rows = jax.tree.map(lambda x, row=row: x[row], plan)
    batch = {k: v[rows["index"]] for k, v in TRAIN.items()} | rows
    state = own.init(init_key, batch) if state is None else state
    state, metrics = step(state, own.frozen, batch, step_key)
    sums.append(metrics["loss"])
  assert_equal(state, scanned.state, 1e-5)
  last = np.sum(sums[10:], axis=0)
  np.testing.assert_allclose(
    scanned.metrics["train/loss"][-1], last[0] / last[1], rtol=1e-5
  )


@pytest.mark.slow
def test_the_result_has_metrics_by_evaluation(scanned):
  assert scanned.metrics["step"].tolist() == [5, 10, 12]
  assert {"train/loss", "accuracy", "gap", "seconds"} < set(scanned.metrics)
  own = learner()
  batch = jax.tree.map(jnp.asarray, HELD_OUT | {"mask": np.ones(10, bool)})
  seen = training.mean_metrics(own.evaluate(scanned.state, own.frozen, batch))
  for name, value in seen.items():
    np.testing.assert_allclose(scanned.metrics[name][-1], value, rtol=1e-5)


@pytest.mark.slow
def test_a_distillation_logs_what_its_diagnostics_read():
  own = learner(metrics=None)
  result = fit(own, steps=1, validation=HELD_OUT, diagnostics=True)
  assert set(result.metrics) == {
    "step",
    "seconds",
    "train/loss",
    "accuracy",
    "cross_entropy",
    "agreement",
    "kl",
    "teacher_accuracy",
    "teacher_entropy",
    "gradient_cosine",
  }


@pytest.mark.slow
def test_the_module_comes_back_with_its_weights_and_the_first_is_unchanged():
  student = fit_runs.Network(4, 0)
  before = weights(student)
  result = fit(learner(student), steps=3)
  assert_equal(weights(student), before)
  assert isinstance(result.module, fit_runs.Network)
  kernel = result.state.params["student"]["layer"]["kernel"]
  assert jnp.any(kernel != before["layer"]["kernel"])
  np.testing.assert_array_equal(result.module.layer.kernel[...], kernel)
  assert jnp.any(result.module.norm.mean[...] != before["norm"]["mean"])
  result.module.eval()
  outputs, _ = result.model.forward(
    result.model.variables, HELD_OUT["image"], train=False, key=None
  )
  np.testing.assert_allclose(
    result.module(HELD_OUT["image"]), outputs.logits, rtol=1e-6
  )


def weights(module):
  _, params, state = nnx.split(module, nnx.Param, nnx.BatchStat, ...)[:3]
  return jax.tree.map(
    jnp.copy, nnx.to_pure_dict(nnx.merge_state(params, state))
  )


@pytest.mark.parametrize(
  "mode",
  [
    None,
    "shard_map",
    pytest.param("jit", marks=pytest.mark.slow),
    pytest.param("pmap", marks=pytest.mark.slow),
  ],
)
def test_steps_one_by_one_and_on_two_devices_are_the_same(mode, scanned):
  options = {"steps": STEPS, "evaluate_every": 5, "validation": HELD_OUT}
  if mode is not None:
    options |= {"mode": mode, "devices": jax.devices()[:2]}
  result = fit(scan=False, **options)
  assert_equal(result.state.params, scanned.state.params, 1e-5)
  for name in set(result.metrics) - {"seconds"}:
    np.testing.assert_allclose(
      result.metrics[name], scanned.metrics[name], rtol=1e-4, atol=1e-5
    )
  assert all(len(x.devices()) == 1 for x in jax.tree.leaves(result.model[1]))


@pytest.mark.slow
def test_a_scan_runs_on_two_devices(scanned):
  result = fit(
    steps=5,
    mode="shard_map",
    devices=jax.devices()[:2],
    scan=True,
    validation=HELD_OUT,
    evaluate_every=5,
  )
  for name in ("train/loss", "gap", "accuracy"):
    np.testing.assert_allclose(
      result.metrics[name], scanned.metrics[name][:1], rtol=1e-4, atol=1e-6
    )


class Examples:
  """A data set that gives pairs by index."""

  def __len__(self):
    return len(TRAIN["label"])

  def __getitem__(self, index):
    return TRAIN["image"][index], TRAIN["label"][index]


@pytest.mark.slow
@pytest.mark.parametrize("scan", [True, False])
def test_all_data_that_are_read_by_index_have_one_order(scan, scanned):
  data = Examples() if scan else (TRAIN["image"], TRAIN["label"])
  result = fit(data=data, scan=scan, steps=5, evaluate_every=5)
  np.testing.assert_allclose(
    result.metrics["train/loss"], scanned.metrics["train/loss"][:1], rtol=1e-6
  )


@pytest.mark.slow
def test_a_stream_of_batches_is_trained_on_in_its_order():
  def batches():
    for i in range(0, 24, BATCH):
      yield TRAIN["image"][i : i + BATCH], TRAIN["label"][i : i + BATCH]

  lists = list(batches())
  result = fit(data=batches(), batch_size=None, steps=3)
  again = fit(
    data=lists, batch_size=None, steps=None, epochs=1, validation=lists
  )
  assert_equal(result.state.params, again.state.params)
  assert again.state.step == 3
  own = learner()
  batch = {k: jnp.asarray(v[:24]) for k, v in TRAIN.items()}
  batch["mask"] = jnp.ones(24, bool)
  seen = training.mean_metrics(own.evaluate(again.state, own.frozen, batch))
  for name, value in seen.items():
    np.testing.assert_allclose(again.metrics[name][-1], value, rtol=1e-5)


def test_a_short_batch_is_masked_and_adds_no_program():
  lists = [
    {k: v[i : i + BATCH] for k, v in TRAIN.items()} for i in (0, 8, 16, 24)
  ]
  traces = []

  def loss(student_logits, labels):
    traces.append(student_logits.shape)
    return jnp.sum((student_logits - jax.nn.one_hot(labels, CLASSES)) ** 2, -1)

  own = training.distill(fit_runs.Network(4, 0), None, loss, optax.sgd(0.1))
  result = fit(
    own, lists, batch_size=None, steps=None, epochs=2, evaluate_every=4
  )
  assert set(traces) == {(BATCH, CLASSES)}
  assert result.state.step == 8


def linen_student():
  class Student(linen.Module):
    @linen.compact
    def __call__(self, x, train):
      x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
      return linen.Dense(CLASSES)(linen.relu(x))

  variables = Student().init(KEY, TRAIN["image"], train=False)
  return training.from_linen(Student(), variables)


def plain_student():
  def forward(variables, inputs, *, train, key):
    return Outputs(inputs @ variables.params, {}, None), {}

  return training.Model(
    forward, training.Variables(jnp.zeros((PIXELS, CLASSES)), {})
  )


def network_student():
  return training.Network.of(
    lambda rngs: nnx.Linear(PIXELS, CLASSES, rngs=rngs)
  )


@pytest.mark.parametrize(
  "make", [linen_student, plain_student, network_student]
)
def test_students_of_any_kind_are_trained(make):
  own = learner(make())
  result = fit(own, epochs=20, steps=None, validation=TRAIN)
  assert result.module is None
  assert isinstance(result.model, training.Model)
  losses = result.metrics["train/loss"]
  assert len(losses) == 10
  assert losses[-1] < losses[0]
  outputs, _ = result.model.forward(
    result.model.variables, TRAIN["image"], train=False, key=None
  )
  hits = np.argmax(outputs.logits, -1) == TRAIN["label"]
  np.testing.assert_allclose(np.mean(hits), result.metrics["accuracy"][-1])


def adaptation():
  def loss(source_logits, target_logits, source_labels, *, axis_name):
    del axis_name
    labels = jax.nn.one_hot(source_labels, CLASSES)
    error = jnp.mean(jnp.sum((source_logits - labels) ** 2, -1))
    return error + jnp.mean(
      (source_logits.mean(0) - target_logits.mean(0)) ** 2
    )

  return training.adapt(fit_runs.Network(4, 0), loss, optax.adam(1e-2))


@pytest.mark.slow
def test_each_domain_has_its_own_data_and_the_shorter_repeats():
  source, target = arrays(16), arrays(40, seed=3)
  del target["label"]
  domains = {"source": source, "target": target}
  whole = {"here": source, "there": HELD_OUT}
  results = [
    fit(
      adaptation(), domains, epochs=2, steps=None, scan=scan, validation=whole
    )
    for scan in (True, False)
  ]
  assert results[0].state.step == 10  # of the longer domain
  assert_equal(results[0].state.params, results[1].state.params, 1e-6)
  assert {"here/accuracy", "there/accuracy"} < set(results[0].metrics)
  mixed = {"source": Loader(source), "target": (target["image"], source)}
  with pytest.raises(TypeError):
    fit(adaptation(), mixed)
  streamed = {"source": Loader(source), "target": target}
  assert fit(adaptation(), streamed, steps=3).state.step == 3
  joined = [{"source": source, "target": {"image": target["image"][:16]}}]
  result = fit(adaptation(), joined, batch_size=None, steps=3)
  assert result.state.step == 3


class Loader:
  """Batches that start anew."""

  def __init__(self, arrays):
    self._arrays = arrays

  def __iter__(self):
    for i in range(0, 16, BATCH):
      yield {k: v[i : i + BATCH] for k, v in self._arrays.items()}


@pytest.mark.slow
def test_domains_without_names_are_stacked():
  def loss(student_logits, labels):
    assert student_logits.shape[::2] == (2, CLASSES)
    labels = jax.nn.one_hot(labels, CLASSES)
    return jnp.sum((student_logits - labels) ** 2, -1)

  own = training.generalize(fit_runs.Network(4, 0), loss, optax.sgd(0.1))
  domains = {"photo": arrays(16), "art": arrays(24, seed=3)}
  results = [
    fit(own, domains, steps=4, scan=scan, validation=HELD_OUT, mode=mode)
    for scan, mode in ((True, None), (False, None), (False, "shard_map"))
  ]
  for result in results[1:]:
    assert len(result.metrics["accuracy"]) == 4
    np.testing.assert_allclose(
      result.metrics["train/loss"][0],
      results[0].metrics["train/loss"][0],
      rtol=1e-5,
    )


@pytest.mark.slow
def test_a_validation_mask_that_covers_nothing_is_refused():
  held_out = {"some": HELD_OUT, "none": HELD_OUT | {"mask": np.zeros(10, bool)}}
  with pytest.raises(ValueError, match=r"masks of validation\['none'\] are"):
    fit(learner(), steps=2, validation=held_out)


@pytest.mark.slow
def test_a_mask_of_tokens_counts():
  def loss(student_logits, labels):
    labels = jax.nn.one_hot(labels, CLASSES)
    return jnp.sum((student_logits - labels) ** 2, -1)

  tokens = np.random.default_rng(0).normal(size=(10, 5, PIXELS))
  data = {
    "tokens": tokens.astype(np.float32),
    "label": np.zeros((10, 5), int),
    "mask": np.arange(50).reshape(10, 5) % 3 > 0,
  }
  own = training.distill(
    nnx.Linear(PIXELS, CLASSES, rngs=nnx.Rngs(0)),
    None,
    loss,
    optax.sgd(0.0),
    on="tokens",
    metrics={},
  )
  kernel = own.modules["student"]
  error = kernel(data["tokens"]) - np.eye(CLASSES)[np.zeros((10, 5), int)]
  error = np.sum(error**2, -1)
  expected = np.mean(np.asarray(error)[data["mask"]])
  for scan in (True, False):
    result = fit(
      own, data, batch_size=4, epochs=1, steps=None, scan=scan, evaluate_every=3
    )
    np.testing.assert_allclose(result.metrics["train/loss"], [expected], 1e-5)


@pytest.mark.slow
def test_the_gradient_cosine_is_between_the_labels_and_the_rest():
  batch = jax.tree.map(jnp.asarray, HELD_OUT | {"mask": np.ones(10, bool)})
  values = []
  parts = {
    "ce": (0.5, stateless(fit_runs.loss, temperature=1.0, alpha=0.0)),
    "soft": (0.5, stateless(fit_runs.loss, temperature=4.0, alpha=1.0)),
  }
  combined = training.distill(
    fit_runs.Network(4, 0),
    fit_runs.Network(8, 1),
    combine(parts),
    optax.sgd(0.1),
  )
  for own in (
    learner(alpha=0.0),
    learner(alpha=0.9),
    combined,
    learner(alpha=1.0),
  ):
    state = own.init(KEY, batch)
    cosine = gradient_cosine_of(own, batch)
    values.append(float(jax.jit(cosine)(state, own.frozen, batch, KEY)))
  labels_alone, mixed, rest, soft_alone = values
  assert labels_alone == pytest.approx(1.0, rel=1e-5)
  assert abs(mixed) < 0.999
  # The cross-entropy of a combination, such as a preset, is left out.
  assert rest == pytest.approx(soft_alone, abs=1e-5)


@pytest.mark.slow
def test_old_keys_are_taken():
  result = fit(key=jax.random.PRNGKey(0))
  assert_equal(result.state.params, fit().state.params)


def exploding(at):
  """A loss that is infinite from a step on."""

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    value = jnp.mean(outputs["student"].logits ** 2)
    bad = jnp.where(state >= at, jnp.inf, 0.0)
    count = jnp.ones(())
    metrics = {"loss": (value + bad, count), "ce/loss": (bad, count)}
    return value, state + 1, metrics

  from kdjax.methods import Objective

  objective = Objective(lambda key, specs: ({}, jnp.zeros((), int)), apply)
  return training.distill(
    fit_runs.Network(4, 0), None, objective, optax.sgd(0.1)
  )


@pytest.mark.slow
@pytest.mark.parametrize("scan", [True, False])
def test_what_is_not_finite_stops_the_run_with_its_name(scan, tmp_path):
  options = {"steps": 8, "evaluate_every": 2, "scan": scan}
  message = "diverged at step 6: ce/loss is inf, loss is inf; .* step 4 is kept"
  with pytest.raises(training.DivergedError, match=message) as caught:
    fit(exploding(5), workdir=tmp_path, **options)
  assert (caught.value.step, caught.value.terms) == (6, ("ce/loss", "loss"))
  text = (tmp_path / "metrics.jsonl").read_text()
  assert [json.loads(line)["step"] for line in text.splitlines()] == [2, 4]


@pytest.mark.slow
def test_a_run_may_go_on_and_its_last_finite_state_is_kept(tmp_path):
  options = {"workdir": tmp_path, "nan": "continue", "checkpoint_every": 1}
  with pytest.warns(UserWarning, match="step 2: ce/loss is inf, .* goes on"):
    result = fit(
      exploding(1), steps=5, keep=1, evaluate_every=2, scan=False, **options
    )
  assert np.isnan(result.metrics["train/loss"]).tolist() == [True, True, True]
  with training.Checkpoints(tmp_path / "finite" / "checkpoints") as kept:
    assert kept.restore(result.state).step == 1
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert json.loads(lines[0])["train/loss"] is None
  assert not {"NaN", "Infinity"} & set(lines[0].replace(",", " ").split())


ERRORS = {
  "steps": ({"steps": None}, "steps is None and epochs is None"),
  "both": ({"epochs": 1}, "steps is 2 and epochs is 1"),
  "key": ({"key": 0}, r"key is 0; expected jax\.random\.key"),
  "keys": ({"key": jax.random.split(KEY)}, "key is an array"),
  "batch_size": ({"batch_size": None}, "batch_size is None"),
  "no_batch": ({"batch_size": 0}, "fit: batch_size is 0"),
  "nan": ({"nan": "ignore"}, "fit: nan is 'ignore'"),
  "mode": ({"mode": "vmap"}, "fit: mode is 'vmap'"),
  "devices": ({"devices": []}, "devices is empty"),
  "divide": (
    {"devices": jax.devices()[:3]},
    "batch_size is 8; expected a multiple of the 3 devices",
  ),
  "unequal": (
    {"data": TRAIN | {"label": np.arange(3)}},
    r"data\['label'\] has 3 examples",
  ),
  "float": (
    {"data": TRAIN | {"label": np.ones(26)}},
    r"data\['label'\] has the dtype float.*expected integers",
  ),
  "column": (
    {"data": TRAIN | {"label": np.ones((26, 1), int)}},
    r"\[n, 1\]; expected \[n\]: labels\[:, 0\]",
  ),
  "no_entry": ({"data": {"x": np.ones((4, 2))}}, "expected 'image' too"),
  "validation": (
    {"validation": {"image": TRAIN["image"]}},
    "validation: .*'labels'",
  ),
  "validation_label": (
    {"validation": TRAIN | {"label": np.ones(26)}},
    r"validation\['label'\] has the dtype",
  ),
  "once": (
    {"validation": iter([TRAIN])},
    "validation is an iterator, which can be read once",
  ),
  "ends": (
    {"data": iter([TRAIN] * 2), "batch_size": None, "steps": 3},
    "ended after 2 batches",
  ),
  "mask": (
    {"data": TRAIN | {"mask": np.zeros(26, bool)}},
    "the masks of data are False everywhere",
  ),
  "stream_epochs": (
    {"data": iter([TRAIN]), "steps": None, "epochs": 1},
    "epochs is 1, and the data do not say",
  ),
  "stream_size": ({"data": [TRAIN]}, "batch_size is 8, and the batches"),
  "stream_scan": (
    {"data": [TRAIN], "batch_size": None, "scan": True},
    "scan is True, and data comes in batches",
  ),
  "no_learner": ({"own": 3}, "learner is a int; expected a Learner"),
  "sweep": ({"own": training.sweep(learner())}, "learner is a sweep"),
  "parallel": (
    {"own": training.parallelize(learner(), "jit")},
    "learner is parallel already",
  ),
  "domains": (
    {"own": adaptation(), "data": {"source": TRAIN}},
    "expected data for each of source, target",
  ),
  "one_domain": (
    {"own": adaptation(), "data": (TRAIN["image"], TRAIN["label"])},
    r"data is of one domain; expected a mapping \{'source'",
  ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_argument(case):
  options, message = ERRORS[case]
  unchecked = training.fit
  while hasattr(unchecked, "__wrapped__"):  # what a user without pytest calls
    unchecked = unchecked.__wrapped__
  arguments = {
    "batch_size": BATCH,
    "steps": 2,
    "key": KEY,
    "diagnostics": False,
    "own": learner(),
    "data": TRAIN,
  } | options
  with pytest.raises((TypeError, ValueError), match=message):
    unchecked(arguments.pop("own"), arguments.pop("data"), **arguments)
