"""The job of two modalities, reduced: flags, pairs, words, resumption."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cross_modal import __main__ as cross_modal
from experiments.cross_modal import captions, gaussians, methods, report, sounds
from experiments.cross_modal import data as pair_data
from experiments.cross_modal import training as pair_training
from kdjax import methods as kmethods
from tests.experiments import runs

SMALL = cross_modal.Config(
  tasks=("gaussians", "halves", "captions"),
  methods=("unlabeled_pairs", "clip_afd"),
  examples_per_class=2,
  hidden=(6,),
  teacher_hidden=(8,),
  seeds=2,
  steps=4,
  evaluate_every=2,
  batch_size=8,
  gaussian_runs=2,
  gaussian_steps=2,
)


run, small = runs.of(cross_modal, SMALL)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"tasks": ("sounds",)}, "tasks is .*; expected one or more different"),
    ({"methods": ("clip",)}, "methods is .*; expected one or more different"),
    ({"steps": 5}, "steps is 5; expected a multiple of evaluate_every"),
    ({"gaussian_runs": 0}, "gaussian_runs is 0; expected a number above 0"),
    ({"hidden": (0,)}, "hidden is .*; expected numbers above 0"),
    ({"examples_per_class": 999}, "examples_per_class is 999; expected at m"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    cross_modal.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_nothing_speaks_where_nothing_is_installed(monkeypatch):
  monkeypatch.setattr(sounds, "find_espeak", lambda: None)
  assert sounds.resolve("auto") == "tones"
  with pytest.raises(ValueError, match="there is no program espeak-ng"):
    sounds.resolve("espeak")
  monkeypatch.setattr(sounds, "find_espeak", lambda: "/bin/espeak-ng")
  assert sounds.resolve("auto") == "espeak"


def test_every_method_of_two_modalities_is_there_and_has_a_name():
  rows = set(kmethods.names("cross_modal"))
  # CLIP itself is the towers' row from scratch.
  assert rows - {"clip"} == set(methods.METHODS) - {
    methods.OWN,
    methods.UNLABELED,
  }
  assert set(methods.describe()) == set(methods.METHODS) <= set(methods.NAMES)
  for task, own in (("halves", methods.TAUGHT), ("captions", methods.TOWERS)):
    assert set(own) <= set(methods.chosen(cross_modal.Config(), task))


def test_a_caption_says_what_an_image_shows():
  upright = np.zeros((9, 8, 1), np.float32)
  upright[1:8, 4] = 1.0
  slanted = np.zeros_like(upright)
  for row in range(1, 8):
    slanted[row, 7 - row] = 0.5  # the top is to the right
  images = np.stack([upright, slanted, slanted[:, ::-1]])
  ink, slant = captions.measure(images)
  np.testing.assert_allclose(ink, np.array([7, 3.5, 3.5]) / 72)
  np.testing.assert_allclose(slant, [0, 1, -1], atol=1e-6)
  thirds = captions.Thirds(np.array([0.06, 0.08]), np.array([-0.5, 0.5]))
  numbers = captions.describe(images, np.array([7, 0, 3]), thirds)
  assert [captions.CAPTIONS[i] for i in numbers] == [
    "a thick upright seven",
    "a thin slanted zero",
    "a thin leaning three",
  ]
  assert captions.digit_of(numbers).tolist() == [7, 0, 3]
  assert captions.all_tokens().shape == (90, captions.LENGTH)


def test_retrieval_counts_every_image_of_a_caption():
  texts = jnp.eye(len(captions.CAPTIONS))
  caption = np.array([0, 0, 11, 22])
  # The last image is where the third one's caption is.
  images = texts[jnp.array([0, 0, 11, 11])]
  scores = pair_training.judge(images, texts, caption, np.unique(caption))
  assert scores["image_to_text"] == 0.75
  # Caption 22 finds no image of its own: all are equally far from it.
  np.testing.assert_allclose(scores["text_to_image"], 2 / 3)
  assert scores["zero_shot"] == 0.75


def test_tones_tell_digits_apart_and_are_drawn_by_the_seed():
  labels = np.array([0, 3, 3])
  first, again, other = (
    sounds.make_sounds("tones", labels, "train", seed) for seed in (0, 0, 1)
  )
  assert first.shape == (3, sounds.FRAMES, sounds.BANDS, 1)
  assert np.isfinite(first).all()
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)
  same, apart = (np.abs(first[i] - first[1]).mean() for i in (2, 0))
  assert same < apart


@pytest.mark.parametrize(
  ("experiment", "point", "shared"),
  [("shared", 0, 0), ("shared", 4, 4), ("shared", 10, 10), ("more", 20, 10)],
)
def test_gaussians_share_so_many_deciding_dimensions(experiment, point, shared):
  parts = gaussians.draw(experiment, point, 3)
  a, b = parts["train"]["a"], parts["train"]["b"]
  equal = [any(np.array_equal(x, y) for y in a.T) for x in b.T]
  assert sum(equal) == shared
  assert not any(equal[10:])
  assert len(parts["test"]["label"]) == gaussians.TEST
  np.testing.assert_array_equal(parts["many"]["b"][: len(b)], b)


def test_the_report_says_what_became_of_the_gain():
  def rows(name):
    points = np.arange(len(gaussians.REFERENCE[name]))[:, None]
    scratch = np.full((1, 12), 0.7) + np.linspace(-0.01, 0.01, 12)
    gain = np.array(gaussians.REFERENCE[name])[:, None] / 100
    seen = {"scratch": scratch + 0 * points, "kd": scratch + gain}
    return seen | {"teacher": seen["kd"], "many": seen["kd"]}

  results = {name: rows(name) for name in gaussians.POINTS}
  config = cross_modal.Config(gaussian_runs=12)
  first, second = report.conclude_gaussians(results, config)
  assert "-0.73 to +2.48 points" in first
  assert "within 0.00 points of the reference" in first
  assert "+1.59 to +0.30 points" in second
  for changes in ({"seed": 1}, {"gaussian_runs": 9}):
    other = dataclasses.replace(config, **changes)
    texts = report.conclude_gaussians(results, other)
    assert not any("authors" in text for text in texts)
  table = report.gaussian_table(("shared", results["shared"]))
  assert table.rows[0][5:7] == ["-0.73", "-0.73"]
  assert table.rows[-1][0] == "1.00"


@pytest.mark.slow
def test_a_run_leaves_a_report(tmp_path):
  folder = tmp_path / "run"
  run(small(folder))
  text = (folder / "report.md").read_text()
  for words in (
    "## Gaussians",
    "## Left half to right half of digits",
    "KD on all pairs, no labels",
    "CLIP-KD, AFD",
    "too few seeds for a verdict",
  ):
    assert words in text
  for name in ("shared_information.png", "pairs.png"):
    assert (folder / name).stat().st_size > 10_000
    assert f"({name})" in text


@pytest.mark.slow
def test_pairs_are_of_one_digit(tmp_path):
  config = small(tmp_path, sounds="tones", tasks=("spoken",))
  images = pair_data.load_images(config)
  few = types.SimpleNamespace(
    train={k: x[:20] for k, x in images.train.items()},
    test={k: x[:10] for k, x in images.test.items()},
    few=images.few,
  )
  pairs = pair_data.make_spoken(config, few)
  assert pairs.train["a"].shape == (20, 8, 8, 1)
  assert pairs.train["b"].shape == (20, sounds.FRAMES, sounds.BANDS, 1)
  halves = pair_data.make_halves(config, few)
  np.testing.assert_array_equal(
    np.concatenate([halves.test["a"], halves.test["b"]], 2),
    few.test["image"],
  )
