"""The cross-task job, reduced: parts, methods, bounds, resumption."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cross_task import __main__ as cross_task
from experiments.cross_task import data as cross_data
from experiments.cross_task import methods as cross_methods
from experiments.cross_task import training as cross_training
from kdjax import methods as kmethods
from kdjax import nets, training
from tests.experiments import runs

SMALL = cross_task.Config(
  methods=("refilled", "amalgamation"),
  hidden=(8,),
  seeds=2,
  steps=4,
  evaluate_every=2,
)


run, small = runs.of(cross_task, SMALL)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ("refiled",)}, "methods is .*; expected one or more"),
    ({"steps": 5}, "steps is 5; expected a multiple of evaluate_every"),
    ({"examples_per_class": 0}, "examples_per_class is 0"),
    ({"examples_per_class": 500}, "expected at most 1"),
    ({"hidden": (0,)}, "hidden"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    cross_task.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_stages_are_rows_of_the_table():
  stages = (cross_methods.NEW_CLASSES, cross_methods.ALL_CLASSES)
  for rows in stages:
    for name, chain in rows.items():
      assert name in cross_methods.NAMES
      assert set(chain) <= set(kmethods.names())
  assert set(cross_methods.METHODS) == set(cross_methods.describe())


@pytest.mark.slow
def test_no_class_is_in_both_halves():
  data = cross_data.load_data(SMALL)
  assert data.old.classes == data.new.classes == 5
  counts = [len(part.train["label"]) for part in data]
  assert counts[0] + counts[1] == counts[2] == 1198
  for part in data:
    labels = np.asarray(part.train["label"])
    assert set(labels.tolist()) == set(range(part.classes))
    for places in part.few:
      drawn = np.bincount(labels[places], minlength=part.classes)
      assert np.all(drawn == SMALL.examples_per_class)
  images = {x.tobytes() for x in np.asarray(data.old.train["image"])}
  both = [x for x in np.asarray(data.new.train["image"])]
  assert not [x for x in both if x.tobytes() in images]


@pytest.mark.slow
def test_class_centers_are_unit_means_of_embeddings():
  config = dataclasses.replace(SMALL, hidden=(32,))
  data = cross_data.load_data(config)
  network = cross_training.make_network(config, data.old)
  variables = jax.vmap(network.init)(jax.random.split(jax.random.key(0), 2))
  centers = cross_training.class_centers(network, variables, data.new)
  one = jax.tree.map(lambda x: x[1], variables)
  places = data.new.few[1]
  labels = np.asarray(data.new.train["label"])[places]
  rows = data.new.train["image"][places]
  outputs, _ = network.forward(one, rows, train=False, key=None)
  rows = np.asarray(outputs.embedding, float)
  means = np.stack([rows[labels == i].mean(0) for i in range(5)])
  means /= np.linalg.norm(means, axis=-1, keepdims=True)
  np.testing.assert_allclose(centers[1], means, atol=1e-5)


@pytest.mark.slow
def test_the_surer_teacher_answers_for_its_own_classes():
  """Teachers that know: each is sure of its own classes alone."""
  config = dataclasses.replace(SMALL, hidden=(4,))
  data = cross_data.load_data(config)
  job = types.SimpleNamespace(config=config, data=data)

  def knowing(first):
    def forward(variables, images, *, train, key):
      del train, key
      # The label is written into the first pixel.
      label = images[:, 0, 0, 0].astype(int)
      logits = 9.0 * jax.nn.one_hot(label - first, 5) * variables
      return nets.Outputs(logits, {}, logits), {}

    return training.Network(lambda key: None, forward)

  labels = data.union.test["label"]
  images = jnp.zeros((len(labels), 1, 1, 1)).at[:, 0, 0, 0].set(labels)
  union = data.union._replace(test={"image": images, "label": labels})
  job.data = data._replace(union=union)
  made = {"new": knowing(5), "old": knowing(0)}
  ones = dict.fromkeys(made, jnp.ones(2))
  found = cross_training.most_confident(job, made, ones)["accuracy"]
  np.testing.assert_array_equal(found, [1.0, 1.0])


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_report(tmp_path, monkeypatch, capsys):
  whole = run(small(tmp_path / "whole"))
  report = (tmp_path / "whole" / "report.md").read_text()
  for text in (
    "# Teachers of other classes, digits",
    "| ReFilled |",
    "| amalgamation, no labels |",
    "| teacher, no training |",
    "| all labels |",
    "too few seeds for a verdict",
  ):
    assert text in report
  assert (tmp_path / "whole" / "accuracy.png").stat().st_size > 10_000
  assert list(whole.new_classes) == [
    "teacher",
    "scratch",
    "refilled",
    "all_labels",
  ]
  assert list(whole.all_classes) == [
    "teacher",
    "scratch",
    "amalgamation",
    "all_labels",
  ]
  train, calls = cross_training.rounds.train, []

  def train_and_die(job, stage, *rest):
    calls.append(stage)
    if stage == "new_refilled_2":
      raise KeyboardInterrupt
    return train(job, stage, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(cross_training.rounds, "train", train_and_die)
    with pytest.raises(KeyboardInterrupt):
      run(small(tmp_path / "killed"))
  again = run(small(tmp_path / "killed", resume=True))
  assert "resuming new_refilled_1 at step 4 of 4" in capsys.readouterr().out
  jax.tree.map(np.testing.assert_array_equal, again, whole)
