"""Pitch and words: sounds, scores, a run, resumption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.distill_audio import __main__ as distill_audio
from experiments.distill_audio import data as audio_data
from experiments.distill_audio import methods as audio_methods
from experiments.distill_audio import recordings, synthesis
from experiments.distill_audio import report as audio_report
from experiments.distill_audio import scores as audio_scores
from experiments.distill_audio import training as audio_training
from kdjax import training
from tests.experiments import runs

SMALL = distill_audio.Config(
  real=("none",),
  widths=(1,),
  methods=("soft_bins",),
  examples=16,
  validation_examples=8,
  test_examples=12,
  teacher_width=1,
  steps=2,
  word_methods=("dann",),
  words=16,
  validation_words=8,
  test_words=8,
  word_width=0.25,
  word_steps=2,
  discriminator=4,
  seeds=2,
  evaluate_every=1,
  batch_size=4,
)


run, small = runs.of(distill_audio, SMALL)
reference = runs.reference(run, small)


def pitch_by_autocorrelation(sound, rate):
  """In Hz, of a frame; no lag below 2 ms."""
  power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 8192)) ** 2
  correlation = np.fft.irfft(power)
  # Windows make long lags faint.
  window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(len(sound)), 8192)) ** 2)
  lags = np.arange(rate // 500, rate // 60)
  found = correlation[lags] / window[lags]
  first = np.nonzero(found > 0.95 * found.max())[0][0]
  near = found[first : first + 5]
  return rate / lags[first + np.argmax(near)]


def test_synthetic_sounds_have_their_pitch():
  rate, count = 16_000, 4
  generator = np.random.default_rng(0)
  hertz = np.array([100.0, 140.0, 180.0, 240.0])
  path = synthesis.glide(generator, hertz, 1024, rate)
  np.testing.assert_allclose(path[:, 511:513].mean(1), hertz, rtol=1e-4)
  gains = np.stack([synthesis.timbre(i) for i in range(count)])
  formants = synthesis.VOWELS[:count][:, None]
  for sound in (
    synthesis.add_harmonics(path, gains, rate),
    synthesis.speak(path, formants, rate),
  ):
    found = [pitch_by_autocorrelation(x, rate) for x in sound]
    assert audio_scores.cents_apart(found, hertz).max() < 60


def test_no_instrument_is_in_two_parts(monkeypatch):
  chosen = {}

  def make(kind, generator, sources, font):
    del generator, font
    chosen.setdefault(kind, []).append(set(sources.tolist()))
    return np.zeros((len(sources), 4)), np.ones(len(sources))

  monkeypatch.setattr(audio_data, "make_frames", make)
  config = small("", examples=400, validation_examples=41, test_examples=200)
  parts = audio_data.load_frames(config, recordings.pathlib.Path("font"))
  assert chosen.keys() == {"notes", "tones", "speech"}
  for train, validation, test in chosen.values():
    assert not train & validation
    assert not (train | validation) & test
  assert len(parts["validation"]["hertz"]) == 41
  assert np.bincount(parts["test"]["kind"]).tolist() == [67, 67, 66]


def test_scores_are_those_of_mir_eval():
  true = np.array([100.0, 200.0, 300.0, 400.0])
  found = true * 2 ** (np.array([0, 49, -51, 1200]) / 1200)
  kind = np.array([0, 0, 1, 1])
  scores = audio_scores.score(found, true, kind, ["tones", "speech"])
  assert scores["accuracy"] == 0.5
  assert (scores["tones"], scores["speech"]) == (1, 0)
  assert scores["cents"] == pytest.approx(50)


def test_the_tolerance_itself_is_no_hit(monkeypatch):
  """An octave is 1200 cents without rounding; mir_eval compares by <."""
  monkeypatch.setattr(audio_scores, "TOLERANCE", 1200.0)
  true, found = np.array([100.0, 100.0]), np.array([200.0, 190.0])
  assert audio_scores.raw_pitch_accuracy(found, true) == 0.5


def test_words_differ_and_voices_shift():
  part = audio_data.make_words(np.random.default_rng(0), 10, "target", None)
  assert part["audio"].shape == (10, audio_data.WORD_SAMPLES)
  assert sorted(part["label"]) == list(range(10))
  assert np.isfinite(part["audio"]).all()
  assert np.abs(part["audio"]).max() < 3


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"tasks": ("song",)}, "expected one or more different ones of pitch, wo"),
    ({"methods": ("scratch",)}, "expected one or more different ones of soft_"),
    ({"word_methods": ("shot",)}, "expected one or more different ones of kd"),
    ({"real": ("crepe", "none")}, "expected auto, none, or one or more"),
    ({"steps": 3, "evaluate_every": 2}, "expected a multiple of evaluate_eve"),
  ],
)
def test_flags_that_will_not_do(changes, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    distill_audio.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_what_is_not_installed_is_named(monkeypatch, capsys):
  monkeypatch.setattr(recordings, "find_file", lambda *_: None)
  monkeypatch.setattr(recordings, "find_speaker", lambda: None)
  config = distill_audio.find_real(small("", real=("auto",)))
  assert (config.real, config.tasks) == (("none",), ("pitch",))
  assert "only pitch: apt-get install espeak-ng" in capsys.readouterr().out
  with pytest.raises(ValueError, match="espeak-ng is not installed: apt-get"):
    distill_audio.find_real(small("", real=("auto",), tasks=("words",)))
  with pytest.raises(ValueError, match="crepe is not installed: pip install"):
    distill_audio.find_real(small("", real=("crepe",)))


def test_all_methods_are_compared_at_the_first_width_alone():
  changes = {"methods": ("soft_bins", "binary_kl"), "real": ("crepe",)}
  config = small("", widths=(1, 4), **changes)
  names = [row.name for row in audio_training.rows_of(config)]
  assert names == [
    "1_random_scratch",
    "1_random_soft_bins",
    "1_random_binary_kl",
    "4_random_scratch",
    "4_random_soft_bins",
    "4_published_soft_bins",
  ]
  assert set(audio_methods.describe()) >= {*SMALL.methods, *SMALL.word_methods}


def test_a_row_without_its_baseline_has_no_gain():
  rows = [
    audio_training.Row(1, "random", "scratch"),
    audio_training.Row(1, "random", "both"),
    audio_training.Row(4, "published", "both"),
  ]
  found = {"test": [{"accuracy": x} for x in (0.2, 0.3)]}
  gains = audio_report.pitch_gains({"rows": dict.fromkeys(rows, found)})
  assert list(gains) == ["1_random_both"]


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, results = reference
  report = (folder / "report.md").read_text()
  for name in ("pitch.png", "words.png"):
    assert (folder / name).stat().st_size > 10_000
    assert f"({name})" in report
  for text in (
    "too few seeds for a verdict",
    "The teacher is a CREPE that learned the true pitch here",
    "Words are of vocal tracts",
    "\n| width 1, teacher's bins alone |",
    "\n| target-only |",
    "\n| DANN |",
  ):
    assert text in report
  rows = audio_training.rows_of(SMALL)
  assert list(results["pitch"]["rows"]) == rows
  for found in results["pitch"]["rows"].values():
    assert len(found["test"]) == 2
    assert np.shape(found["seen"]) == (2, 2)
  names = ["source_only", "dann", "target_only"]
  assert list(results["words"]) == names


@pytest.mark.slow
@pytest.mark.parametrize("method", audio_methods.PITCH)
def test_each_method_of_pitch_makes_a_step(method):
  """By shapes; `soft_bins` is that of a run."""
  network = audio_training.crepe(1)
  data = {
    "samples": jnp.ones((4, 1024)),
    "hertz": jnp.full(4, 440.0),
    "teacher": {"logits": jnp.zeros((4, 360))},
    "index": jnp.arange(4),
    "mask": jnp.ones(4, bool),
  }
  assert_step(
    network,
    lambda model: audio_methods.pitch_learner(method, model, SMALL, 2),
    data,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "method", [*audio_methods.BOUNDS, *audio_methods.WORDS]
)
def test_each_method_of_words_makes_a_step(method):
  """By shapes; the values are those of the methods, tested there."""
  network = audio_training.spotter(8, 0.25)
  part = {
    "audio": jnp.ones((4, audio_data.WORD_SAMPLES)),
    "label": jnp.arange(4),
    "index": jnp.arange(4),
    "mask": jnp.ones(4, bool),
  }
  taught = audio_methods.is_taught(method)

  def learner(model):
    return audio_methods.word_learner(method, model, model, SMALL, 2)

  data = part if taught else {"source": part, "target": part}
  assert_step(network, learner, data)


def assert_step(network, make_learner, batch):
  def step(key):
    learner = make_learner(training.Model(network.forward, network.init(key)))
    state = learner.init(key, batch)
    return learner.step(state, learner.frozen, batch, key, axis_name=None)

  _, metrics = jax.eval_shape(step, jax.random.key(0))
  assert metrics["loss"][0].shape == ()


@pytest.mark.packages
def test_espeak_speaks():
  if recordings.find_speaker() is None:
    pytest.skip(f"espeak-ng is not installed: {recordings.SPEAKER}")
  speaker = recordings.Speaker()
  voices = [x for part in audio_data.VOICES.values() for x in part]
  for voice in voices:
    word = speaker.say("left", voice, pitch=50, speed=170)
    assert 0.2 < len(word) / recordings.NATIVE < 0.8
    assert 0.05 < np.abs(word).max() <= 1
  with pytest.raises(ValueError, match="has no voice 'xx-nobody'"):
    speaker.say("left", "xx-nobody", pitch=50, speed=170)


@pytest.mark.packages
def test_a_sound_font_plays_the_pitch():
  font = recordings.find_sound_font()
  if font is None:
    pytest.skip("pretty_midi and tinysoundfont are not installed")
  keys = np.array([52.4, 57.0, 60.7])
  programs = np.array([73, 40, 56])
  options = font, np.random.default_rng(0), programs, keys, 2048, 16_000
  sounds = recordings.play_notes(*options)
  found = [pitch_by_autocorrelation(x, 16_000) for x in sounds]
  hertz = 440 * 2 ** ((keys - 69) / 12)
  assert audio_scores.cents_apart(found, hertz).max() < 50
