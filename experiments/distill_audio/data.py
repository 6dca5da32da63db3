"""Frames of known pitch, and words of several voices, dealt out by source."""

import pathlib
from typing import Any

import numpy as np

from experiments.distill_audio import recordings, synthesis

RATE, FRAME = 16_000, 1024  # those of CREPE
TIMBRES = 48  # of synthetic tones
DECIBELS = (-5, 25)  # of frames over their noise

WORD_RATE = 11_025
WORD_SAMPLES = 8_820  # 0.8 s
WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
# Men of one accent, and women of five.
VOICES = {
  "source": [f"en-us+m{i}" for i in range(1, 8)],
  "target": [
    "en+f3",
    "en-gb-scotland+f1",
    "en-029+f4",
    "en-gb-x-rp+f5",
    "en-us-nyc+f2",
  ],
}
TRACTS = {"source": (1.0, 1.03, 1.06), "target": (1.2, 1.25, 1.3)}
WORD_DECIBELS = (10, 30)

Part = dict[str, Any]  # arrays of as many rows


def load_frames(config: Any, font: pathlib.Path | None) -> dict[str, Part]:
  """Frames and their pitch; a part has instruments of its own."""
  generator = np.random.default_rng(config.seed)
  sources: dict[str, np.ndarray] = {
    "tones": np.arange(TIMBRES),
    "speech": np.arange(len(synthesis.VOWELS)),
  }
  if font is not None:
    sources = {"notes": np.array(recordings.PROGRAMS)} | sources
  sizes = {
    "train": config.examples,
    "validation": config.validation_examples,
    "test": config.test_examples,
  }
  parts: dict[str, list[Part]] = {name: [] for name in sizes}
  for number, (kind, every) in enumerate(sources.items()):
    order = generator.permutation(every)
    tests, few = len(every) // 4, max(1, len(every) // 8)
    dealt = {
      "train": order[tests + few :],
      "validation": order[tests : tests + few],
      "test": order[:tests],
    }
    for name, size in sizes.items():
      count = len(range(number, size, len(sources)))
      chosen = generator.choice(dealt[name], count)
      samples, hertz = make_frames(kind, generator, chosen, font)
      rows = {"samples": samples, "hertz": hertz.astype(np.float32)}
      rows["kind"] = np.full(count, number, np.int32)
      parts[name].append(rows)
  return {
    name: {key: np.concatenate([x[key] for x in rows]) for key in rows[0]}
    for name, rows in parts.items()
  }


def make_frames(
  kind: str,
  generator: np.random.Generator,
  chosen: np.ndarray,
  font: pathlib.Path | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Frames `[n, 1024]` of the chosen instruments or vowels, and their pitch."""
  keys = generator.uniform(45, 84, len(chosen))
  if kind == "speech":
    keys = generator.uniform(40, 63, len(chosen))  # 82 to 311 Hz
  hertz = 440 * 2 ** ((keys - 69) / 12)
  if kind == "notes":
    assert font is not None
    sound = recordings.play_notes(font, generator, chosen, keys, FRAME, RATE)
  else:
    path = synthesis.glide(generator, hertz, FRAME, RATE)
    if kind == "tones":
      gains = np.stack([synthesis.timbre(i) for i in chosen])
      sound = synthesis.add_harmonics(path, gains, RATE)
    else:
      scale = generator.uniform(0.9, 1.3, (len(chosen), 1, 1))
      formants = synthesis.VOWELS[chosen][:, None] * scale
      sound = synthesis.speak(path, formants, RATE)
  return synthesis.add_noise(sound, generator, DECIBELS), hertz


def load_words(config: Any, real: bool) -> dict[str, dict[str, Part]]:
  """Words by part and by domain: voices of the source, and unseen ones."""
  generator = np.random.default_rng([config.seed, 1])
  speaker = recordings.Speaker() if real else None
  sizes = {
    "train": config.words,
    "validation": config.validation_words,
    "test": config.test_words,
  }
  return {
    name: {
      domain: make_words(generator, size, domain, speaker) for domain in VOICES
    }
    for name, size in sizes.items()
  }


def make_words(
  generator: np.random.Generator,
  count: int,
  domain: str,
  speaker: recordings.Speaker | None,
) -> Part:
  """Words by the voices of a domain, at random pitches, speeds and places."""
  labels = generator.permutation(np.arange(count) % len(WORDS))
  if speaker is None:
    tracts = generator.choice(TRACTS[domain], count)
    sound = synthesis.say_words(
      generator, labels, tracts, WORD_SAMPLES, WORD_RATE
    )
  else:
    sound = np.zeros((count, WORD_SAMPLES))
    voices = generator.choice(VOICES[domain], count)
    for row, label, voice in zip(sound, labels, voices, strict=True):
      pitch, speed = generator.integers((30, 130), (71, 211)).tolist()
      word = speaker.say(WORDS[label], voice, pitch=pitch, speed=speed)
      # Half the rate; the mean of neighbors keeps most of the alias away.
      word = word[: len(word) // 2 * 2].reshape(-1, 2).mean(-1)[:WORD_SAMPLES]
      start = generator.integers(WORD_SAMPLES - len(word) + 1)
      row[start : start + len(word)] = word
  audio = synthesis.add_noise(sound, generator, WORD_DECIBELS)
  return {"audio": audio, "label": labels.astype(np.int32)}
