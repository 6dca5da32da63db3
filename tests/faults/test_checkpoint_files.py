"""A checkpoint with any file damaged: never other arrays, never a traceback."""

import collections
import random
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.training import Checkpoints

pytestmark = pytest.mark.faults
FLIPS = 150


def state(number):
  w = jax.random.normal(jax.random.key(number), (40, 30))
  params = {"w": w, "b": jnp.full(30, float(number))}
  moments = optax.adam(1e-3).init(params)
  return {"params": params, "moments": moments, "key": jax.random.key(number)}


def as_numbers(x):
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  return np.asarray(x)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
  folder = tmp_path_factory.mktemp("intact")
  with Checkpoints(folder, keep=2) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, state(step), {"seen": [step / 3]})
  return folder


@pytest.fixture(scope="module")
def states():
  return [state(step) for step in range(3)]


def outcome(intact, states, folder, damage, *, quick=True):
  """The step that is restored after a damage to the newest checkpoint."""
  shutil.copytree(intact, folder)
  if not quick:  # as if the run had been killed before this file was written
    (folder / "2" / "checksums.json").unlink()
  damage(folder / "2")
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with Checkpoints(folder, keep=2) as checkpoints:
      step, tree, position = checkpoints.restore(states[0])
  said = [x for x in caught if "is damaged" in str(x.message)]
  shutil.rmtree(folder)
  # Whichever it is, it is whole, and another than the newest is announced.
  found, expected = (jax.tree.leaves(x) for x in (tree, states[step]))
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_array_equal(as_numbers(x), as_numbers(y))
  assert position == {"seen": [step / 3]}
  assert (step == 1) == bool(said)
  return step


def files_of(folder):
  return sorted(x.relative_to(folder) for x in folder.rglob("*") if x.is_file())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("quick", [True, False])
def test_single_bits(intact, states, tmp_path, quick):
  generator = random.Random(0)
  files = files_of(intact / "2")
  files = [x for x in files if quick or x.name != "checksums.json"]
  seen = collections.Counter()
  for number in range(FLIPS if quick else FLIPS // 3):
    file = files[number % len(files)]

    def flip(at, file=file):
      content = bytearray((at / file).read_bytes())
      bit = generator.randrange(8 * len(content))
      content[bit // 8] ^= 1 << (bit % 8)
      (at / file).write_bytes(content)

    folder = tmp_path / "run"
    seen[outcome(intact, states, folder, flip, quick=quick)] += 1
  assert seen[1] > seen[2] / 3, seen


def test_missing_empty_and_truncated_files(intact, states, tmp_path):
  for file in files_of(intact / "2"):
    content = (intact / "2" / file).read_bytes()
    for cut in (None, 0, len(content) // 2, len(content) - 1):

      def damage(at, file=file, cut=cut, content=content):
        (at / file).unlink()
        if cut is not None:
          (at / file).write_bytes(content[:cut])

      step = outcome(intact, states, tmp_path / "run", damage)
      assert (step == 2) == (file.name == "checksums.json"), (file, cut)


def test_missing_folders(intact, states, tmp_path):
  for folder in [x for x in (intact / "2").rglob("*") if x.is_dir()]:
    name = folder.relative_to(intact / "2")

    def damage(at, name=name):
      shutil.rmtree(at / name)

    assert outcome(intact, states, tmp_path / "run", damage) == 1
