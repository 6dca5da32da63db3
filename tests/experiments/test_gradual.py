"""The gradual job, reduced: who sees what, rounds, words, resumption."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from matplotlib.figure import Figure

from experiments.frame import jobs
from experiments.gradual import __main__ as gradual
from experiments.gradual import data as gradual_data
from experiments.gradual import network as gradual_network
from experiments.gradual import report as gradual_report
from experiments.gradual import training as gradual_training
from kdjax import data as kdata
from kdjax import training
from tests.experiments import runs

pytestmark = pytest.mark.slow  # distill and the frame are quick

SMALL = gradual.Config(
  source_examples=60,
  source_epochs=2,
  blocks=2,
  block_examples=40,
  epochs=1,
  validation_examples=50,
  channels=4,
  seeds=2,
)
STAGES = ("source_only", "target_only", *gradual.METHODS)


run, small = runs.of(gradual, SMALL)
reference = runs.reference(run, small)


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, rows = reference
  report = (folder / "report.md").read_text()
  assert (folder / "angles.png").stat().st_size > 10_000
  for text in (
    "# digits, turned from 0 to 60 degrees",
    "(angles.png)",
    "uses target labels",
    "too few seeds for a verdict",
    "dropped the 10% of the least confident predictions",
  ):
    assert text in report
  assert list(rows) == ["source_only", *gradual.METHODS, "target_only"]
  for name in rows:
    assert f"\n| {gradual_report.NAMES[name]} |" in report
  logged = [json.loads(line) for line in runs.lines_of(folder)]
  assert [(row["stage"], row["step"]) for row in logged] == [
    (stage, step) for stage in STAGES for step in (1, 2)
  ]
  # Images that a network knows nothing of tie, and stay.
  kept = {row["stage"]: row["kept"] for row in logged if "kept" in row}
  assert kept == {
    name: 1 if name == "undropped" else pytest.approx(0.9, abs=0.05)
    for name in gradual.METHODS
  }
  for row in rows.values():
    assert (
      row.accuracy.shape == row.information.shape == row.oracle.shape == (2,)
    )
    assert row.by_angle.shape == (13, 2)
    assert row.seen["information"].shape == (3, 2)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_result(
  reference, tmp_path, monkeypatch
):
  folder, rows = reference
  workdir = tmp_path / "killed"
  save, saved = training.Checkpoints.save, []

  def save_and_die(self, *args):
    save(self, *args)
    saved.append(args)
    if len(saved) == 5:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(training.Checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
      run(small(workdir, methods=("gradual",)))
  assert runs.lines_of(workdir) == runs.lines_of(folder)[:5]
  # It goes on with more methods, and with other labels of what they learn.
  monkeypatch.setattr(gradual_report, "draw", lambda job, rows: {})
  monkeypatch.setattr(gradual, "load_data", spoiled)
  again = run(small(workdir, resume=True))
  jax.tree.map(np.testing.assert_array_equal, again, rows)
  assert runs.lines_of(workdir) == runs.lines_of(folder)


LOAD = gradual_data.load_data


def spoiled(config):
  data = LOAD(config)
  between, target = (
    part | {"label": (part["label"] + 1) % 10}
    for part in (data.between, data.target)
  )
  return data._replace(between=between, target=target)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"blocks": 0}, "blocks is 0; expected a number above 0"),
    ({"epochs": -1}, "epochs is -1; expected a number above 0"),
    ({"methods": ()}, r"methods is \(\); expected one or more"),
    ({"methods": ("pooled", "pooled")}, "expected one or more different"),
    ({"drop": 1.0}, "drop is 1.0; expected 0 or more, below 1"),
    ({"drop": float("nan")}, "drop is nan; expected"),
    ({"spread": 30.0}, "degrees is 60.0; expected more than twice spread"),
    ({"degrees": 270.0}, "degrees is 270.0; expected"),
    ({"block_examples": 1000}, "are 2110 images; expected at most 1198"),
    ({"dataset": "nothing"}, "nothing"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    run(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_flags_that_change_it(reference):
  folder, _ = reference
  with pytest.raises(ValueError, match="has a run already"):
    run(small(folder))
  with pytest.raises(ValueError, match=r"--drop was 0\.1 and is 0\.2"):
    run(small(folder, resume=True, drop=0.2))


@pytest.fixture
def numbered(monkeypatch):
  """Data whose images are their numbers, and the degrees of each part."""

  def load(name, split, data_dir):
    first, count = (0, 200) if split == "train" else (200, 30)
    numbers = np.arange(first, first + count, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 3, 3, 1))
    return kdata.ArraySource(images, numbers.astype(np.int32) % 10)

  turned = []

  def turn(part, degrees):
    turned.append(degrees)
    return part | {"degrees": degrees}

  monkeypatch.setattr(kdata, "load", load)
  monkeypatch.setattr(gradual_data, "turn", turn)
  return LOAD(SMALL)


def test_no_image_is_in_two_places_and_labels_go_with_them(numbered):
  numbers = {
    name: part["image"][:, 0, 0, 0] for name, part in numbered._asdict().items()
  }
  for name, of in (("turned_source", "source"), ("target", "between")):
    np.testing.assert_array_equal(numbers.pop(name), numbers[of])
  np.testing.assert_array_equal(numbers.pop("plain_test"), numbers["test"])
  sizes = {name: len(x) for name, x in numbers.items()}
  assert sizes == {"source": 60, "between": 80, "validation": 50, "test": 30}
  every = np.concatenate(list(numbers.values()))
  assert len(set(every.tolist())) == len(every)
  for part in numbered:
    np.testing.assert_array_equal(part["label"], part["image"][:, 0, 0, 0] % 10)


def test_domains_turn_as_published(numbered):
  np.testing.assert_allclose(
    numbered.between["degrees"], 5 + 55 / 80 * np.arange(80)
  )
  assert "degrees" not in numbered.plain_test
  for part, low, high in (
    (numbered.source, 0, 5),
    (numbered.turned_source, 55, 60),
    (numbered.target, 55, 60),
    (numbered.validation, 55, 60),
    (numbered.test, 55, 60),
  ):
    degrees = part["degrees"]
    assert low <= degrees.min() < low + 1
    assert high - 1 < degrees.max() <= high


def test_images_turn_as_scipys_do():
  images = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 1))
  images = images.astype(np.uint8)
  degrees = np.array([7.0, 55.0, 60.0])
  part = gradual_data.turn({"image": images, "label": np.arange(3)}, degrees)
  inside = np.hypot(*np.mgrid[-4:5, -4:5]) < 4
  for image, turned, angle in zip(images, part["image"], degrees, strict=True):
    expected = scipy.ndimage.rotate(
      image[..., 0].astype(float), angle, reshape=False, order=1
    )
    gap = np.abs(np.asarray(turned[..., 0], float) - expected)
    assert np.max(gap[inside]) <= 0.51


@pytest.mark.parametrize("size", [8, 7, 1])
def test_the_strided_convolution_is_jaxs(size):
  rng = np.random.default_rng(size)
  x = jnp.asarray(rng.normal(size=(2, size, size + 3, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(5, 5, 3, 4)), jnp.float32)
  plain = functools.partial(
    jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )

  @functools.partial(jax.jit, static_argnums=0)
  def run(convolve, x, kernel):
    def total(x, kernel):
      out = convolve(x, kernel, (2, 2), "SAME")
      return jnp.sum(jnp.sin(out)), out

    return jax.value_and_grad(total, (0, 1), has_aux=True)(x, kernel)

  (_, out), gradients = run(gradual_network._convolve_strided, x, kernel)
  (_, expected), wanted = run(plain, x, kernel)
  np.testing.assert_allclose(out, expected, atol=1e-4)
  for got, want in zip(gradients, wanted, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_the_network_is_the_published_one():
  network = gradual_network.create(10, (28, 28, 1), 32)
  params = jax.eval_shape(network.init, jax.random.key(0)).params
  count = sum(x.size for x in jax.tree.leaves(params))
  # Three convolutions, scale and shift, and a layer on 4 x 4 x 32 features.
  convolutions = 25 * 32 + 2 * 25 * 32 * 32 + 3 * 32
  assert count == convolutions + 2 * 32 + 512 * 10 + 10


@pytest.fixture(scope="module")
def learner():
  """Learns from 40 points with the classifier alone."""
  config = dataclasses.replace(SMALL, batch_size=8)
  init, learn = gradual_training.make_learner(
    gradual_network.head_forward, config
  )
  rng = np.random.default_rng(0)
  head = {
    "kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
    "bias": jnp.zeros(4),
  }
  points = jnp.asarray(rng.normal(size=(40, 3)), jnp.float32)
  heads = jax.tree.map(lambda x: x[None], training.Variables(head, {}))
  start = jax.tree.map(lambda x: x[0], init(heads, points))
  return start, points, jnp.arange(40) % 4, jax.jit(learn)


def test_what_is_dropped_is_not_learned(learner):
  start, points, labels, learn = learner
  mask = jnp.arange(40) % 2 == 0
  key = jax.random.key(0)
  state = learn(start, points, labels, mask, key, 3)
  # Twenty examples in batches of eight, thrice.
  assert state.step == 9
  other = jnp.where(mask[:, None], points, 7.0)
  same = learn(start, other, jnp.where(mask, labels, 0), mask, key, 3)
  jax.tree.map(np.testing.assert_array_equal, state.params, same.params)
  changed = learn(start, points, (labels + 1) % 4, mask, key, 3)
  assert not np.array_equal(
    changed.params["student"]["bias"], state.params["student"]["bias"]
  )


def test_the_first_of_the_best_rounds_is_chosen_for_each_seed(
  tmp_path, monkeypatch
):
  information = np.array([[0.5, 0.2], [0.5, 0.9], [0.1, 0.9]])
  accuracy = np.array([[0.1, 0.9], [0.2, 0.9], [0.3, 0.0]])

  def score(variables, part):
    rounds = int(variables.params[0])
    return {"information": information[rounds], "accuracy": accuracy[rounds]}

  monkeypatch.setattr(gradual_training, "make_scores", lambda forward: score)
  setup = jobs.open_run(small(tmp_path), types.SimpleNamespace(validation=None))
  keys = jax.random.split(jax.random.key(0), 2)
  job = jobs.Job(*setup, None, None, keys)
  params = {"student": jnp.zeros(2), "objective": {}}
  start = training.TrainState(
    jnp.zeros(2, jnp.int32), params, {"student": {}, "objective": {}}, {}
  )

  def advance(state, keys, i):
    rounds = {"student": jnp.full(2, i + 1.0), "objective": {}}
    return state._replace(params=rounds), {}

  trained = gradual_training.run_rounds("counted", job, 2, start, advance)
  np.testing.assert_array_equal(trained.final.params, [2, 2])
  np.testing.assert_array_equal(trained.best["information"].params, [0, 1])
  np.testing.assert_array_equal(trained.best["oracle"].params, [2, 0])
  np.testing.assert_array_equal(trained.seen["accuracy"], accuracy)
  assert gradual_report.describe_rounds(information) == "0 to 1"


def gained(rows, gains):
  """Rows of gradual alone, which gains so much over source-only."""
  zero = np.zeros(len(gains))
  names = "source_only", "gradual", "target_only"
  rows = {name: rows[name]._replace(accuracy=zero) for name in names}
  return rows | {"gradual": rows["gradual"]._replace(accuracy=np.array(gains))}


@pytest.mark.parametrize(
  ("gains", "words", "title"),
  [
    (
      (0.1, 0.101, 0.1),
      "Clearly better than source-only: gradual +10.0.",
      "gradual: +10.0 points over source-only",
    ),
    (
      (-0.1, -0.101, -0.1),
      "Clearly worse than source-only: gradual -10.0.",
      "No method is clearly better than source-only",
    ),
    (
      (0.0952, 0.0952),
      "gradual +9.5; too few seeds for a verdict",
      "Too few seeds for a verdict; 3 or more are needed",
    ),
  ],
)
def test_findings_table_and_title_say_the_same(
  reference, tmp_path, monkeypatch, gains, words, title
):
  _, rows = reference
  rows = gained(rows, gains)
  assert words in " ".join(gradual_report.conclude(rows))
  cell = gradual_report.make_table(rows).rows[1][2]
  assert ("**+**" in cell, "**-**" in cell) == (
    "better" in words,
    "worse" in words,
  )
  titles = []
  monkeypatch.setattr(
    Figure, "suptitle", lambda self, text, **_: titles.append(text)
  )
  monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: None)
  job = types.SimpleNamespace(
    config=SMALL, run=types.SimpleNamespace(path=tmp_path)
  )
  gradual_report.draw(job, rows)
  assert titles == [title]
