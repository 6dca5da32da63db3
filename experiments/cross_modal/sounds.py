"""Sounds of spoken digits, as log-spectrograms."""

import io
import shutil
import subprocess
import wave
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

Kind = Literal["auto", "espeak", "tones"]

WORDS = (
  *("zero", "one", "two", "three", "four"),
  *("five", "six", "seven", "eight", "nine"),
)
RATE = 22_050  # samples in a second, as espeak-ng has
FRAME, FRAMES, BANDS = 512, 32, 16
LENGTH = FRAME * FRAMES
# Voices of espeak-ng; those of test sounds speak no training sound.
VOICES = {
  "train": tuple(
    f"{accent}+{voice}"
    for accent in ("en-us", "en-gb")
    for voice in ("m1", "m2", "m3", "f1", "f2", "f3")
  ),
  "test": ("en-us+m5", "en-gb+m7", "en-gb-scotland+f4", "en-us+f5"),
}
SPEEDS, PITCHES = (140, 180), (35, 60)
# Without espeak-ng: the first two formants in Hz where a digit's vowel starts
# and where it ends, and whether noise opens and closes the word.
FORMANTS = (
  (True, (300, 2200), (450, 900), False),
  (False, (350, 700), (620, 1250), False),
  (True, (310, 1500), (320, 900), False),
  (True, (400, 1600), (280, 2300), False),
  (True, (500, 850), (580, 900), False),
  (True, (750, 1250), (330, 2100), True),
  (True, (400, 2000), (400, 2000), True),
  (True, (550, 1800), (450, 1500), False),
  (False, (530, 1850), (330, 2200), True),
  (False, (720, 1200), (350, 2050), False),
)
# Of the tones' voices: pitch in Hz, and the scale of all formants.
TONES = {"train": ((90, 170), (0.9, 1.1)), "test": ((150, 240), (1.05, 1.2))}


def find_espeak() -> str | None:
  """The program that speaks, if it is installed."""
  return shutil.which("espeak-ng")


def resolve(kind: Kind) -> Kind:
  """The kind of sounds that `auto` stands for on this machine."""
  if kind == "auto":
    return "espeak" if find_espeak() else "tones"
  if kind == "espeak" and not find_espeak():
    raise ValueError(
      "sounds is 'espeak', and there is no program espeak-ng; install it, or "
      "give --sounds tones."
    )
  return kind


def make_sounds(
  kind: Kind, labels: np.ndarray, split: str, seed: int
) -> np.ndarray:
  """A sound for each label, `[n, frames, bands, 1]`, in noise and shifted."""
  generator = np.random.default_rng((seed, len(split)))
  spoken: list[list[np.ndarray]] = []
  if kind == "espeak":
    spoken = [list(_speak(word, split)) for word in WORDS]
  rows = []
  for label in labels:
    if kind == "espeak":
      choices = spoken[label]
      signal = choices[generator.integers(len(choices))]
    else:
      signal = _tone(label, split, generator)
    rows.append(_spectrogram(_place(signal, generator)))
  return np.stack(rows)[..., None]


def _speak(word: str, split: str) -> Iterator[np.ndarray]:
  """A word by all voices of a split."""
  for voice in VOICES[split]:
    for speed in SPEEDS:
      for pitch in PITCHES:
        command = ["espeak-ng", "-v", voice, "-s", str(speed)]
        command += ["-p", str(pitch), "--stdout", word]
        found: Any = subprocess.run(command, capture_output=True, check=False)
        if found.returncode or len(found.stdout) < 1000:
          raise ValueError(
            f"sounds: espeak-ng said no {word!r} by the voice {voice}; give "
            "--sounds tones."
          )
        # A stream's header does not know its length; frames are to the end.
        with wave.open(io.BytesIO(found.stdout)) as file:
          start = len(found.stdout) - 2 * file.getnframes()
        start = 44 if start < 44 else start
        sound = np.frombuffer(found.stdout[start:], "<i2").astype(np.float32)
        loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
        yield sound[loud[0] : loud[-1] + 1]


def _tone(digit: int, split: str, generator: np.random.Generator) -> np.ndarray:
  """A vowel that glides between formants, with noise at its ends."""
  opens, first, last, closes = FORMANTS[digit]
  pitches, scales = TONES[split]
  pitch, scale = generator.uniform(*pitches), generator.uniform(*scales)
  size = int(RATE * generator.uniform(0.25, 0.4))
  time = np.arange(size) / RATE
  glide = np.linspace(0, 1, size)
  sound = np.zeros(size)
  for harmonic in range(1, int(5000 / pitch)):
    height = harmonic * pitch
    loudness = np.zeros(size)
    for start, end in zip(first, last, strict=True):
      formant = scale * (start + (end - start) * glide)
      loudness += 1 / (1 + np.square((height - formant) / 90))
    sound += loudness * np.sin(2 * np.pi * height * time)
  sound *= np.hanning(size)
  sound /= np.abs(sound).max()
  parts = [sound]
  for place, noisy in ((0, opens), (len(parts), closes)):
    if noisy:
      hiss = 0.2 * generator.normal(size=int(0.08 * RATE))
      parts.insert(place, hiss)
  return np.concatenate(parts)


def _place(signal: np.ndarray, generator: np.random.Generator) -> np.ndarray:
  """The sound somewhere in a window, in noise of 5 to 20 dB below it."""
  signal = signal[:LENGTH] / np.sqrt(np.mean(np.square(signal)))
  window = np.zeros(LENGTH)
  start = generator.integers(LENGTH - len(signal) + 1)
  window[start : start + len(signal)] = signal
  level = 10 ** (-generator.uniform(5, 20) / 20)
  return window + level * generator.normal(size=LENGTH)


def _spectrogram(signal: np.ndarray) -> np.ndarray:
  """Logarithms of the energy in bands whose width grows, `[frames, bands]`."""
  frames = signal.reshape(FRAMES, FRAME) * np.hanning(FRAME)
  power = np.square(np.abs(np.fft.rfft(frames)))
  edges = np.geomspace(150, 8000, BANDS + 1) / RATE * FRAME
  cuts = np.round(edges).astype(int)
  # The last band has all higher frequencies too.
  bands = np.add.reduceat(power, cuts[:-1], axis=1)
  return np.log(bands + 1e-3).astype(np.float32)
