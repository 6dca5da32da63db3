"""The job of generalization, reduced: domains, methods, rules, resumption."""

import dataclasses
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

from experiments.generalize import __main__ as generalize
from experiments.generalize import data as generalize_data
from experiments.generalize import methods as generalize_methods
from experiments.generalize import report as generalize_report
from experiments.generalize import training as generalize_training
from experiments.generalize.methods import METHODS
from experiments.generalize.networks import make_network
from kdjax import data as kdata
from kdjax import methods as kmethods
from tests.experiments import runs

pytestmark = pytest.mark.slow  # distill and the frame are quick

SMALL = generalize.Config(
  examples=180,
  hidden=(8,),
  methods=("irm",),
  seeds=2,
  trials=2,
  steps=4,
  evaluate_every=2,
  batch_size=8,
)


run, small = runs.of(generalize, SMALL)
reference = runs.reference(run, small)


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, results = reference
  report = (folder / "report.md").read_text()
  assert (folder / "accuracy.png").stat().st_size > 10_000
  for text in (
    "# Generalization to an unseen domain: colored digits",
    "| ERM |",
    "| IRM |",
    "| Target-only |",
    "## Training domains",
    "## Leave one domain out",
    "## Oracle",
    "uses target labels",
    "0.1 to 100000, logarithmic",
  ):
    assert text in report
  assert list(results.chosen) == list(generalize_report.RULES)
  for rows in results.chosen.values():
    assert list(rows) == ["erm", "irm"]
    assert all(values.shape == (2, 3) for values in rows.values())
  assert results.target_only.shape == (2, 3)
  assert len(list((folder / "cells" / "irm").iterdir())) == 6
  assert len(list((folder / "cells" / "target_only").iterdir())) == 3


@pytest.mark.slow
def test_a_run_that_was_cut_off_says_where_it_goes_on(
  reference, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(generalize_report, "draw", lambda job, results: {})
  folder, results = reference
  workdir = tmp_path / "cut"
  shutil.copytree(folder, workdir)
  (workdir / "cells" / "irm" / "1_2.json").unlink()
  again = run(small(workdir, resume=True))
  assert "resuming: 14 of 15 cells are done" in capsys.readouterr().out
  jax.tree.map(np.testing.assert_array_equal, again, results)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"steps": 3}, "steps is 3; expected a multiple of evaluate_every"),
    ({"trials": 0}, "trials is 0; expected a number above 0"),
    ({"methods": ("dann",)}, r"methods is \('dann',\); expected one or more"),
    ({"methods": ()}, r"methods is \(\); expected one or more different ones"),
    ({"targets": (0, 0)}, r"targets is \(0, 0\); expected one or more"),
    ({"targets": (3,)}, r"targets is \(3,\); expected one or more different"),
    ({"learning_rates": (1.0, 0.1)}, "learning_rates is .*; expected 0 < low"),
    ({"evaluate_on": -1}, "evaluate_on is -1; expected 0 or more"),
    ({"image_size": 3}, "image_size is 3; expected a divisor of 8"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    run(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def colored():
  return generalize_data.load_data(dataclasses.replace(SMALL, examples=0))


def test_colours_tell_labels_as_often_as_their_domains_say(colored):
  assert colored.image.shape == (3, 599, 8, 8, 2)
  ink = np.any(np.asarray(colored.image), (2, 3))
  assert np.all(ink.sum(-1) == 1)  # one channel has all the ink
  agree = ink[..., 1] == np.asarray(colored.label)
  # Four standard deviations of 599 draws.
  rates = np.array([0.9, 0.8, 0.1])
  spread = 4 * np.sqrt(rates * (1 - rates) / 599)
  assert np.all(np.abs(agree.mean(1) - rates) < spread)


def test_a_quarter_of_the_labels_is_wrong():
  digits = jnp.tile(jnp.arange(10), (3, 200))
  images = jnp.ones((3, 2000, 2, 2, 1), jnp.uint8)
  _, labels = generalize_data.color(jax.random.key(0), images, digits)
  wrong = np.mean(labels != (digits < 5))
  assert abs(wrong - 0.25) < 4 * np.sqrt(0.1875 / 6000)


def test_every_image_is_in_one_domain_and_turned_by_its_angle(monkeypatch):
  turned = []
  monkeypatch.setattr(
    kdata, "rotate", lambda x, angle: (turned.append(angle), x)[1]
  )
  config = dataclasses.replace(SMALL, task="rotated", examples=0)
  data = generalize_data.load_data(config)
  assert turned == [0, 15, 30, 45, 60, 75]
  everything = np.concatenate(
    [kdata.digits(split).images for split in ("train", "test")]
  )
  left = [x.tobytes() for x in np.asarray(data.image).reshape(-1, 8, 8, 1)]
  assert len(left) == 6 * 299
  pool = [x.tobytes() for x in everything]
  for image in left:
    pool.remove(image)  # each as often as it is there


def test_a_fifth_of_each_domain_trains_nobody(colored):
  split = generalize_data.split_domains(jax.random.key(0), colored)
  assert split.outside.shape == (3, 119)
  everything = np.tile(np.arange(599), (3, 1))
  both = np.concatenate(split[:2], 1)
  np.testing.assert_array_equal(np.sort(both), everything)
  np.testing.assert_array_equal(split.tested, split.inside)
  # Students of the target are not told how they do on what they saw.
  for_target = generalize_data.split_for_target(split)
  np.testing.assert_array_equal(for_target.inside, split.inside)
  all_parts = np.concatenate(for_target, 1)
  np.testing.assert_array_equal(np.sort(all_parts), everything)


def test_trials_begin_with_the_defaults_and_share_learning_rates():
  config = dataclasses.replace(SMALL, trials=50, steps=100)
  key = jax.random.key(0)
  trials = {
    name: generalize_methods.draw_trials(name, config, key)
    for name in ("erm", "irm", "fishr", "sd")
  }
  for name, trial in trials.items():
    np.testing.assert_array_equal(
      trial["learning_rate"], trials["erm"]["learning_rate"]
    )
    search = kmethods.describe(name).search or generalize_methods.NOTHING
    assert np.isclose(trial["weight"][0], search.default)
    drawn = np.asarray(trial["weight"][1:])
    assert np.all(drawn >= search.low * 0.999)
    assert np.all(drawn <= search.high * 1.001)
  assert np.isclose(trials["erm"]["learning_rate"][0], 1e-3)
  assert trials["irm"]["anneal"][0] == 10
  assert trials["fishr"]["anneal"][0] == 30
  assert np.all(trials["sd"]["anneal"] == -100)
  # Half of a logarithmic range is below its geometric mean.
  below = np.mean(trials["irm"]["weight"][1:] < 100)
  assert 0.2 < below < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_every_parameter_it_has(name):
  setting = generalize_methods.Setting(SMALL, 2, 2, (8, 8, 2))
  row = kmethods.describe(name)
  search = row.search or generalize_methods.NOTHING
  rng = np.random.default_rng(0)
  batch = {
    "image": jnp.asarray(rng.uniform(size=(2, 8, 8, 8, 2)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, 2, (2, 8)), jnp.int32),
    "mask": jnp.ones((2, 8), bool),
  }
  assert jax.tree.map(jnp.shape, batch) == jax.tree.map(
    lambda x: x.shape, setting.batch()
  )
  keys = jax.random.split(jax.random.key(1))

  @jax.jit
  def update(weight):
    trial = {"learning_rate": 0.01, "weight": weight, "anneal": 0}
    learner = generalize_methods.make_learner(name, setting, trial, keys[0])
    state = learner.init(keys[1], setting.batch())
    moved, _ = learner.step(state, {}, batch, keys[0], axis_name=None)
    again = generalize_methods.make_learner(name, setting, trial, keys[1])
    other = again.init(keys[1], setting.batch())
    return state, moved, other.params["student"]

  state, moved, other = update(search.default)
  assert set(moved.params) == {"student", "objective", *row.networks}
  assert not equal(state.params["student"], other)
  changed = jax.tree_util.tree_map_with_path(
    lambda path, a, b: (
      jax.tree_util.keystr(path) if np.array_equal(a, b) else ""
    ),
    state.params,
    moved.params,
  )
  still = {path for path in jax.tree.leaves(changed) if path}
  # The experts answer for the student's own head.
  unused = {"dg_dael": "['student']['head']", "difex": "['phases']['head']"}
  head = unused.get(name, "none")
  if name in ("andmask", "sandmask"):  # which keep what the domains agree on
    assert len(still) < len(jax.tree.leaves(changed))
  else:
    assert all(path.startswith(head) for path in still)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(moved.params))


def test_all_methods_start_from_the_same_weights_and_have_their_number():
  setting = generalize_methods.Setting(SMALL, 2, 2, (8, 8, 2))
  key = jax.random.key(3)

  def start(name, weight):
    trial = {"learning_rate": 0.1, "weight": weight, "anneal": 7}
    learner = generalize_methods.make_learner(name, setting, trial, key)
    return learner.init(jax.random.key(4), setting.batch())

  @jax.jit
  def program(weight):
    return {
      name: start(name, weight) for name in ("erm", "vrex", "rsc", "fish")
    }

  states = program(0.25)
  for state in states.values():
    assert equal(state.params["student"], states["erm"].params["student"])
  own = states["vrex"].state["objective"]["objectives"]["vrex"]
  assert (own["weight"], own["anneal_steps"]) == (0.25, 7)
  assert states["vrex"].optimizer_state.at == 7
  own = states["rsc"].state["objective"]["objectives"]["rsc"]
  assert own["drop"] == 0.25
  assert states["fish"].optimizer_state["meta_step_size"] == 0.25


def test_the_network_for_mnist_is_domainbeds():
  config = dataclasses.replace(SMALL, network="cnn", channels=64)
  network = make_network(config, (28, 28, 1), 10)
  variables = jax.eval_shape(network.init, jax.random.key(0))
  # Four convolutions and group normalizations, 370560 in DomainBed's file.
  count = sum(x.size for x in jax.tree.leaves(variables))
  assert count == 370_560 + 128 * 10 + 10
  outputs = jax.eval_shape(
    lambda variables, images: network.forward(
      variables, images, train=False, key=None
    )[0],
    variables,
    jnp.zeros((3, 28, 28, 1)),
  )
  assert outputs.embedding.shape == (3, 128)
  assert outputs.logits.shape == (3, 10)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_styles_are_mixed_in_training_alone(network):
  config = dataclasses.replace(SMALL, network=network, channels=8)
  setting = generalize_methods.Setting(config, 2, 2, (8, 8, 2))
  trial = {"learning_rate": 0.1, "weight": 0.1, "anneal": -1}
  images = jax.random.uniform(jax.random.key(0), (8, 8, 8, 2))

  @jax.jit
  def program(images):
    key = jax.random.key(5)
    answers = []
    for name in ("erm", "mixstyle"):
      learner = generalize_methods.make_learner(name, setting, trial, key)
      student = learner.init(key, setting.batch()).student
      forward = learner.loss_fn.forwards["student"]
      for train in (False, True):

        def answer(key, train=train, forward=forward, student=student):
          return forward(student, images, train=train, key=key)[0].logits

        answers.append(jax.lax.map(answer, jax.random.split(key, 8)))
    return answers

  plain, trained, mixing, mixed = program(images)
  np.testing.assert_array_equal(plain, trained)
  np.testing.assert_array_equal(plain, mixing)
  # Half of the batches are mixed.
  assert not np.allclose(plain, mixed)


@pytest.fixture(scope="module")
def irm():
  """Trains IRM without the last domain, as the reference run did."""
  data = generalize_data.load_data(SMALL)
  program = generalize_training.make_program("irm", SMALL, data, 2)
  seeds = jax.jit(lambda data: generalize_training.make_seeds(SMALL, data))(
    data
  )
  students = program.start(seeds)
  domains = jnp.array([0, 1]), jnp.array([2])

  def train(data=data, **changes):
    """Trains with another weight of the penalty, or another step of it."""
    state = students.state
    own = state.state["objective"]
    parts = own["objectives"]
    parts = parts | {"irm": parts["irm"] | changes}
    moved = state.state | {"objective": own | {"objectives": parts}}
    optimizer = state.optimizer_state
    if "anneal_steps" in changes:
      optimizer = optimizer._replace(at=changes["anneal_steps"].astype(int))
    state = state._replace(state=moved, optimizer_state=optimizer)
    changed = students._replace(state=state)
    return program.advance(changed, seeds, data, *domains, jnp.int32(0))

  return data, train


def filled(value):
  return jnp.full((2, 2), value, jnp.float32)


def equal(a, b):
  return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_the_target_trains_nobody(irm):
  data, train = irm
  students, seen = train()
  wrong = data._replace(label=data.label.at[2].set(1 - data.label[2]))
  again, seen_again = train(wrong)
  assert equal(students.state.params, again.state.params)
  np.testing.assert_array_equal(
    seen["outside"][..., :2], seen_again["outside"][..., :2]
  )
  np.testing.assert_allclose(
    seen["tested"], 1 - seen_again["tested"], rtol=1e-6
  )
  other = data._replace(label=data.label.at[0].set(1 - data.label[0]))
  assert not equal(students.state.params, train(other)[0].state.params)


def test_a_penalty_counts_once_its_time_has_come(irm):
  _, train = irm
  weights = filled(2.0), filled(1000.0)
  before, after = (
    [
      train(weight=weight, anneal_steps=filled(steps))[0].state.params
      for weight in weights
    ]
    for steps in (9.0, 0.0)
  )
  assert equal(*before)
  assert not equal(*after)


def test_adam_begins_anew_when_the_penalty_does(irm):
  _, train = irm
  for anneal, steps in ((1.0, 1), (9.0, 2)):
    students, _ = train(anneal_steps=filled(anneal))
    inner = students.state.optimizer_state.optimizer_state
    assert np.all(optax.tree.get(inner, "count") == steps)


@pytest.fixture
def cells():
  """Accuracies drawn at random, of one method, as cells hold them."""
  rng = np.random.default_rng(0)
  alone = [(0,), (1,), (2,)]
  sets = [("erm", held_out) for held_out in (*alone, (0, 1), (0, 2), (1, 2))]
  sets += [("target_only", target) for target in alone]
  return {
    (method, held_out): {
      # Steps, seeds, trials, domains.
      "outside": rng.uniform(size=(4, 5, 3, 3)),
      "tested": rng.uniform(size=(4, 5, 3, len(held_out))),
    }
    for method, held_out in sets
  }


RESOLVED = dataclasses.replace(SMALL, methods=("erm",), targets=(0, 1, 2))
JOB = types.SimpleNamespace(config=RESOLVED)


def test_each_rule_looks_at_what_it_may(cells):
  results = generalize_report.choose(JOB, cells)
  for target, seed in np.ndindex(3, 5):
    of_target = cells["target_only", (target,)]
    best = np.argmax(of_target["outside"][:, seed, :, target])
    expected = of_target["tested"][:, seed].ravel()[best]
    assert results.target_only[seed, target] == expected
    own = cells["erm", (target,)]
    tested = own["tested"][:, seed, :, 0]
    others = [d for d in range(3) if d != target]
    training = own["outside"][:, seed][..., others].mean(-1)
    left_out = np.mean(
      [
        cells["erm", pair]["tested"][:, seed, :, pair.index(other)]
        for other in others
        for pair in [tuple(sorted((target, other)))]
      ],
      0,
    )
    last = np.where(
      np.arange(4)[:, None] == 3, own["outside"][:, seed, :, target], -1
    )
    for rule, scores in zip(
      generalize_report.RULES, (training, left_out, last), strict=True
    ):
      expected = tested.ravel()[np.argmax(scores)]
      assert results.chosen[rule]["erm"][seed, target] == expected


def test_target_labels_reach_the_oracle_alone(cells):
  before = generalize_report.choose(JOB, cells)
  for target in range(3):
    outside = cells["erm", (target,)]["outside"]
    outside[..., target] = 1 - outside[..., target]
  after = generalize_report.choose(JOB, cells)
  for rule in generalize_report.RULES:
    same = np.array_equal(before.chosen[rule]["erm"], after.chosen[rule]["erm"])
    assert same == (rule != generalize_report.ORACLE)


def gained(*gains):
  """Results of ERM and of a method that gains so much, `[seeds]`."""
  erm = np.full((len(gains), 3), 0.5)
  rows = {"erm": erm, "irm": erm + np.array(gains)[:, None]}
  chosen = dict.fromkeys(generalize_report.RULES, rows)
  return generalize_report.Results(chosen, erm)


@pytest.mark.parametrize(
  ("gains", "words", "title"),
  [
    (
      (0.1, 0.102, 0.1),
      "Clearly better than ERM: IRM +10.1.",
      "IRM: +10.1 points over ERM",
    ),
    (
      (-0.1, -0.102, -0.1),
      "Clearly worse than ERM: IRM -10.1.",
      "No method is clearly better than ERM",
    ),
    (
      (0.1, 0.1),
      "IRM +10.0; too few seeds for a verdict",
      "Too few seeds for a verdict",
    ),
  ],
)
def test_findings_table_and_title_say_the_same(
  monkeypatch, gains, words, title
):
  results = gained(*gains)
  findings = generalize_report.conclude(results)
  assert "trained on the target: 50.0%" in findings[0]
  assert words in findings[1]
  seen = []
  monkeypatch.setattr(
    Figure, "suptitle", lambda self, text, **_: seen.append(text)
  )
  monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: None)
  run = types.SimpleNamespace(path=pathlib.Path())
  job = types.SimpleNamespace(config=RESOLVED, run=run)
  generalize_report.draw(job, results)
  assert seen[0].replace("\n", " ").startswith(title)
  rows = results.chosen["Oracle"]
  table = generalize_report.make_table(job, "Oracle", rows, results.target_only)
  assert [row[0] for row in table.rows] == ["ERM", "IRM", "Target-only"]
  cell = table.rows[1][-1]
  assert ("**+**" in cell, "**-**" in cell) == (
    "better" in words,
    "worse" in words,
  )
