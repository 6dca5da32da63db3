"""Notes of a sound font and words of espeak-ng, where these are installed."""

import contextlib
import ctypes
import ctypes.util
import importlib
import importlib.util
import pathlib
from typing import Any

import numpy as np

SPEAKER = "apt-get install espeak-ng, or pip install espeakng-loader"
# Programs of General MIDI with a pitch: no percussion, and no organs, whose
# stops sound octaves below their key.
PROGRAMS = (
  *(0, 4, 6, 8, 11, 12, 21, 24, 26, 32, 33, 40, 41, 42, 46, 52, 56, 57, 60, 61),
  *(65, 66, 68, 69, 70, 71, 72, 73, 75, 79),
)
SKIPPED = 2400  # samples at the start of a note, before it is steady
NATIVE = 22_050  # the samples of espeak-ng in a second


def find_file(package: str, name: str) -> pathlib.Path | None:
  """A file that a package ships; the package is not imported."""
  with contextlib.suppress(ImportError):
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
      file = pathlib.Path(found.origin).parent / name
      return file if file.exists() else None
  return None


def find_sound_font() -> pathlib.Path | None:
  """The sound font of pretty_midi, if it and a synthesizer are installed."""
  if importlib.util.find_spec("tinysoundfont") is None:
    return None
  return find_file("pretty_midi", "TimGM6mb.sf2")


def play_notes(
  file: pathlib.Path,
  generator: np.random.Generator,
  programs: np.ndarray,
  keys: np.ndarray,
  samples: int,
  rate: int,
) -> np.ndarray:
  """Plays a note of each program; keys may lie between those of a piano."""
  synth = importlib.import_module("tinysoundfont").Synth(samplerate=rate)
  font = synth.sfload(str(file))
  sounds = np.zeros((len(keys), samples), np.float32)
  for sound, program, key in zip(sounds, programs, keys, strict=True):
    synth.program_select(0, font, 0, int(program))
    nearest = round(key)
    bend = 8192 + 4096 * (key - nearest)  # the wheel goes over two semitones
    synth.pitchbend(0, round(bend))
    synth.noteon(0, nearest, 100)
    start = SKIPPED + generator.integers(samples)
    played = np.frombuffer(synth.generate(int(start) + samples), np.float32)
    sound[:] = played[2 * start :: 2]  # the left channel
    synth.sounds_off()
    synth.generate(SKIPPED)
  return sounds


def find_speaker() -> tuple[str, bytes | None] | None:
  """The library of espeak-ng, and its folder of data if not the system's."""
  if file := ctypes.util.find_library("espeak-ng"):
    return file, None
  found = find_file("espeakng_loader", "libespeak-ng.so")
  if found is None:
    return None
  return str(found), str(found.parent / "espeak-ng-data").encode()


class Speaker:
  """Speaks by espeak-ng's library, that of Debian or of espeakng-loader.

  Raises:
    OSError: if neither is installed.
  """

  def __init__(self):
    found = find_speaker()
    if found is None:
      raise OSError(f"espeak-ng is not installed: {SPEAKER}.")
    file, data = found
    self._library = ctypes.CDLL(file)
    self._parts: list[np.ndarray] = []
    # The library keeps the address: so does this object.
    self._callback = ctypes.CFUNCTYPE(
      ctypes.c_int,
      ctypes.POINTER(ctypes.c_int16),
      ctypes.c_int,
      ctypes.c_void_p,
    )(self._hear)
    retrieve, no_exit = 2, 0x8000
    if self._library.espeak_Initialize(retrieve, 0, data, no_exit) != NATIVE:
      raise OSError("espeak-ng does not start; is its folder of data there?")
    self._library.espeak_SetSynthCallback(self._callback)

  def _hear(self, samples: Any, count: int, events: Any) -> int:
    del events
    if samples and count > 0:
      self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
    return 0

  def say(self, word: str, voice: str, *, pitch: int, speed: int) -> np.ndarray:
    """A word, in samples from -1 to 1.

    Raises:
      ValueError: if there is no such voice.
    """
    library, self._parts = self._library, []
    if library.espeak_SetVoiceByName(voice.encode()):
      raise ValueError(f"espeak-ng has no voice {voice!r}.")
    for parameter, value in ((1, speed), (3, pitch)):
      library.espeak_SetParameter(parameter, value, 0)
    text, utf8 = word.encode(), 1
    library.espeak_Synth(
      text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, utf8, None, None
    )
    library.espeak_Synchronize()
    return np.concatenate([np.zeros(1, np.int16), *self._parts]) / 2**15
