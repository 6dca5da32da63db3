"""The stages of a method, its data and its memory of all target examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods, training
from kdjax.methods import Method
from kdjax.nets import Outputs
from kdjax.training.loop import _fit_folder
from tests.training.loop.fit_runs import BATCH, CLASSES, PIXELS, arrays

KEY = jax.random.key(0)
DOMAINS = {"source": arrays(16), "target": arrays(20, seed=3)}
HELD_OUT = arrays(10, seed=1)


class Student(nnx.Module):
  """A network with an embedding and a classifier."""

  def __init__(self, rngs):
    self.layer = nnx.Linear(PIXELS, 4, rngs=rngs)
    self.head = nnx.Linear(4, CLASSES, rngs=rngs)

  def __call__(self, x):
    embedding = jnp.tanh(self.layer(x))
    classifier = self.head.kernel[...], self.head.bias[...]
    return Outputs(self.head(embedding), {}, embedding, classifier=classifier)


def student():
  return training.Network.of(lambda rngs: Student(rngs))


def fit(own, data=None, **options):
  defaults = {"batch_size": BATCH, "key": KEY, "diagnostics": False, "steps": 4}
  data = DOMAINS if data is None else data
  return training.fit(own, data, **(defaults | options))


def task(source_logits, source_labels):
  labels = jax.nn.one_hot(source_labels, CLASSES)
  return jnp.sum((source_logits - labels) ** 2, -1)


def agree(target_logits, target_teacher_logits):
  return jnp.sum((target_logits - target_teacher_logits) ** 2, -1)


def two_stages(**parts):
  """A stage on the source, whose student is then the teacher on the target."""
  first = methods.from_loss(task, {"student": 0})._replace(name="source")
  rows = {
    "target": methods.Pass("student", "target.*", train=True),
    "target_teacher": methods.Pass("teacher", "target.*"),
  }
  method = Method(
    methods.stateless(agree),
    rows,
    before={"source": first},
    needs=methods.Needs(("teacher",)),
    name="two",
  )
  return training.learner(
    method._replace(**parts), student(), optax.sgd(0.05, 0.9)
  )


def assert_equal(actual, expected, tolerance=0.0):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=tolerance, atol=tolerance
    ),
    actual,
    expected,
  )


def test_a_stage_is_trained_first_and_handed_over(tmp_path):
  own = two_stages()
  steps = {"source": 3, "two": 4}
  result = fit(own, steps=steps, workdir=tmp_path, validation=HELD_OUT)
  with training.Checkpoints(tmp_path / "source" / "checkpoints") as kept:
    first = own.stages["source"].init(KEY, {"source": DOMAINS["source"]})
    step, state, _ = kept.restore(first)
  assert step == 3
  # The main stage is `fit` of the learner that is handed over.
  left = training.hand_over(own, state)
  alone = fit(left, {"target": DOMAINS["target"]}, steps=4)
  assert_equal(result.state, alone.state)
  assert result.state.step == 4
  assert set(result.metrics) > {"train/loss", "accuracy"}


@pytest.mark.slow
def test_a_killed_stage_goes_on_and_an_ended_one_is_not_trained_again(
  tmp_path, monkeypatch
):
  own = two_stages()
  options = {"evaluate_every": 2, "workdir": tmp_path / "run"}
  whole = fit(own, **(options | {"workdir": tmp_path / "whole"}))
  saves = []

  def stop():
    raise StopError

  for number in (4, 8):  # the second save of each stage
    saves.clear()
    save = _fit_folder.FitFolder.save

    def save_or_stop(folder, step, state, position, number=number, save=save):
      saves.append(step)
      if len(saves) == number // 4 + 1:
        stop()
      save(folder, step, state, position)

    with monkeypatch.context() as patch:
      patch.setattr(_fit_folder.FitFolder, "save", save_or_stop)
      with pytest.raises(StopError):
        fit(own, **options)
  resumed = fit(own, **options)
  assert_equal(resumed.state, whole.state)
  text = (tmp_path / "run" / "source" / "metrics.jsonl").read_text()
  assert len(text.splitlines()) == 2


class StopError(Exception):
  """A fault of a test."""


@pytest.mark.slow
def test_students_of_a_grid_have_stages_of_their_own():
  own = two_stages()
  grid = training.grid(seed=(0, 4), unused=(0.0,))
  grid.pop("unused")
  result = fit(own, students=grid, steps=50)
  for one, seed in zip(result.students, (0, 4), strict=True):
    alone = fit(own, steps=50, key=jax.random.fold_in(KEY, seed))
    assert_equal(one.state.params, alone.state.params, 1e-5)
  weights = result.state.params["student"]["head"]["kernel"]
  assert jnp.any(weights[0] != weights[1])


def test_the_data_of_a_method_are_those_of_the_whole_domain():
  seen = {}

  def data(known, answer):
    seen.update({k: sorted(v) for k, v in known.items()})
    seen["logits"] = answer(known["target"]["image"]).logits.shape
    return {k: v | {"image": 0 * v["image"]} for k, v in known.items()}

  held_out = {"source": HELD_OUT, "target": HELD_OUT}
  result = fit(two_stages(data=data), validation=held_out)
  assert seen == {
    "source": ["image", "label"],
    "target": ["image"],
    "validation/source": ["image"],
    "validation/target": ["image"],
    "logits": (20, CLASSES),
  }
  # One answer for all images, which the map made equal.
  shares = [np.mean(HELD_OUT["label"] == i) for i in range(CLASSES)]
  for name in held_out:
    accuracy = result.metrics[f"{name}/accuracy"][-1]
    assert np.min(np.abs(accuracy - shares)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("students", [None, {"seed": [0, 4]}])
def test_a_memory_is_renewed_from_all_target_examples(students):
  """Each epoch of three steps sees the outputs of its begin."""

  def init(key, specs):
    count = len(DOMAINS["target"]["label"])
    return {}, {"old": jnp.zeros((count, CLASSES)), "times": jnp.zeros(())}

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    own = outputs["target"].logits
    old = state["old"][batch["target"]["index"]]
    error = jnp.sum((own - old - 1.0) ** 2, -1)
    loss = jnp.mean(error, where=batch["target"]["mask"])
    return loss, state, {"loss": (loss, jnp.ones(()))}

  def renew(state, outputs):
    times = state["times"] + 1
    return {"old": outputs["target"].logits, "times": times}

  objective = methods.Objective(init, apply, renew=renew)
  rows = {"target": methods.Pass("student", "target.*", train=True)}
  own = training.learner(Method(objective, rows), student(), optax.sgd(0.01))
  target = {"target": DOMAINS["target"]}
  result = fit(own, target, steps=7, students=students)
  assert np.unique(result.state.state["objective"]["times"]) == 3
  # At the begin of the second epoch, by hand.
  one = result if students is None else result.students[1]
  key = KEY if students is None else jax.random.fold_in(KEY, 4)
  state = fit(own, target, steps=6, key=key).state
  outputs, _ = own.loss_fn.forwards["student"](
    state.student, DOMAINS["target"]["image"], train=False, key=None
  )
  np.testing.assert_allclose(
    one.state.state["objective"]["old"], outputs.logits, rtol=1e-5, atol=1e-5
  )
  with pytest.raises(ValueError, match="reads all target examples before"):
    fit(own, [{"target": DOMAINS["target"]}], batch_size=None)


def test_stages_that_there_are_not_are_named():
  message = "steps is of source, three; expected those of 'two', and of the"
  with pytest.raises(ValueError, match=message):
    fit(two_stages(), steps={"source": 3, "three": 4})
  with pytest.raises(ValueError, match=r"steps\['source'\] is 0"):
    fit(two_stages(), steps={"source": 0, "two": 4})
