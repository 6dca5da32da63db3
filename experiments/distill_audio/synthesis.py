"""Sounds with a known pitch, and words of vowels, from nothing but NumPy."""

import numpy as np

HARMONICS = 40
# The three formants of vowels, in Hz, of an adult man: Peterson and Barney.
VOWELS = np.array(
  [
    (270, 2290, 3010),
    (390, 1990, 2550),
    (530, 1840, 2480),
    (660, 1720, 2410),
    (730, 1090, 2440),
    (570, 840, 2410),
    (440, 1020, 2240),
    (300, 870, 2240),
    (640, 1190, 2390),
    (490, 1350, 1690),
  ],
  np.float64,
)


def add_harmonics(hertz: np.ndarray, gain: np.ndarray, rate: int) -> np.ndarray:
  """Harmonics of a pitch `[n, samples]`, of constant gains `[n, harmonics]`."""
  phase = 2 * np.pi * np.cumsum(hertz, -1) / rate
  sound = np.zeros_like(phase)
  for k in range(1, gain.shape[-1] + 1):
    below_nyquist = k * hertz < rate / 2
    sound += below_nyquist * gain[:, k - 1, None] * np.sin(k * phase)
  return sound


def speak(hertz: np.ndarray, formants: np.ndarray, rate: int) -> np.ndarray:
  """A voice of a pitch `[n, samples]` and of formants `[n, samples, 3]`.

  A harmonic is the louder the nearer it is to a formant, and falls by 6 dB an
  octave, as a glottal pulse and the mouth together do.
  """
  phase = 2 * np.pi * np.cumsum(hertz, -1) / rate
  sound = np.zeros_like(phase)
  for k in range(1, HARMONICS + 1):
    frequency = k * hertz
    distance = (frequency[..., None] - formants) / (0.06 * formants + 40)
    gain = np.sum(1 / (1 + distance**2), -1) / k
    sound += (frequency < rate / 2) * gain * np.sin(k * phase)
  return sound


def timbre(instrument: int) -> np.ndarray:
  """The gains of an instrument's harmonics."""
  generator = np.random.default_rng([7, instrument])
  slope = generator.uniform(0.3, 2.0)
  gain = np.arange(1, HARMONICS + 1) ** -slope
  return gain * generator.uniform(0.05, 1, HARMONICS)


def add_noise(
  sound: np.ndarray, generator: np.random.Generator, decibels: tuple[int, int]
) -> np.ndarray:
  """Sound `[n, samples]` of a random loudness, in white noise below it."""
  size = (len(sound), 1)
  power = np.sqrt(np.mean(sound**2, -1, keepdims=True)) + 1e-9
  ratio = 10 ** (-generator.uniform(*decibels, size) / 20)
  loudness = 10 ** generator.uniform(-2, -0.7, size)
  noisy = sound / power + ratio * generator.normal(size=sound.shape)
  return (loudness * noisy).astype(np.float32)


def glide(
  generator: np.random.Generator, centers: np.ndarray, samples: int, rate: int
) -> np.ndarray:
  """Pitches that rise or fall through their centers `[n]`, `[n, samples]`."""
  octaves = generator.uniform(-0.5, 0.5, (len(centers), 1))  # in a second
  time = (np.arange(samples) - (samples - 1) / 2) / rate
  return centers[:, None] * 2 ** (octaves * time)


def say_words(
  generator: np.random.Generator,
  words: np.ndarray,
  tracts: np.ndarray,
  samples: int,
  rate: int,
) -> np.ndarray:
  """Words `[n]` of three vowels each, by vocal tracts `[n]` (1: a man's)."""
  count = len(words)
  vowels = np.array(
    [np.random.default_rng([8, w]).permutation(len(VOWELS))[:3] for w in words]
  )
  scale = tracts * generator.uniform(0.95, 1.05, count)
  pitch = 120 * tracts**3 * generator.uniform(0.85, 1.15, count)
  places = np.linspace(0, 2, samples) * generator.uniform(0.8, 1.2, (count, 1))
  places = np.clip(places, 0, 2)
  first = np.minimum(places.astype(int), 1)
  share = np.clip(2 * (places - first) - 0.5, 0, 1)[..., None]
  path = VOWELS[vowels] * scale[:, None, None]
  rows = np.arange(count)[:, None]
  formants = (1 - share) * path[rows, first] + share * path[rows, first + 1]
  sound = speak(glide(generator, pitch, samples, rate), formants, rate)
  return sound * np.hanning(samples)
