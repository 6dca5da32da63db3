"""Damages a teacher cache in many ways and counts what is noticed.

`python -m tests.data.cache_faults` prints a table. A fault is named if an error
names the damaged file, harmless if the cache returns what was written, and lost
if it returns other numbers or ends in another way.
"""

import collections
import pathlib
import shutil
import tempfile

import jax.numpy as jnp
import numpy as np

from kdjax.data import ArraySource, TeacherCache, write_teacher_cache

SIZE, CLASSES = 24, 5
IMAGES = np.random.default_rng(0).integers(0, 256, (SIZE, 4, 4, 1), np.uint8)
SHARD = "seed0-00001-of-00003.array_record"


def write(path):
  """Writes a cache of three shards."""
  return write_teacher_cache(
    path,
    ArraySource(IMAGES, np.zeros(SIZE, int)),
    lambda variables, x: x.reshape(len(x), -1).astype(jnp.float32) @ variables,
    np.random.default_rng(1).normal(size=(16, CLASSES)).astype(np.float32),
    dataset="random/train",
    batch_size=8,
    shard_size=8,
  )


def flips(data, count):
  """Copies of the data, each with one bit changed."""
  bits = np.random.default_rng(0).permutation(8 * len(data))[:count]
  for bit in bits.tolist():
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    yield bytes(flipped)


def cuts(data, count):
  """Beginnings of the data."""
  for size in np.linspace(0, len(data) - 1, count).astype(int).tolist():
    yield data[:size]


def outcome(path, name, wanted):
  """What becomes of a damaged cache: named, harmless or lost."""
  try:
    found = TeacherCache(path).lookup(np.arange(SIZE), 0)["logits"]
  except ValueError as error:
    known = name in str(error) or "another version" in str(error)
    return "named" if known else "lost"
  except Exception:
    return "lost"
  return "harmless" if np.array_equal(found, wanted) else "lost"


def count(path, name, damages):
  """Counts the outcomes of damages of one file, which is put back."""
  wanted = TeacherCache(path).lookup(np.arange(SIZE), 0)["logits"]
  file = path / name
  whole = file.read_bytes()
  found = collections.Counter()
  for damaged in damages(whole):
    file.write_bytes(damaged)
    found[outcome(path, name, wanted)] += 1
  file.write_bytes(whole)
  return found


def faults(path, number):
  """Yields each kind of fault with its counts."""
  for name in ("header.json", SHARD):
    yield (
      f"one bit of {name}",
      count(path, name, lambda x: flips(x, number)),
    )
    yield (
      f"the end of {name} missing",
      count(path, name, lambda x: cuts(x, max(3, number // 10))),
    )
  # A few bytes of a shard are its records: flip them as often again.
  yield (
    f"one bit of the records of {SHARD}",
    count(path, SHARD, lambda x: record_flips(x, number)),
  )
  yield "a shard in the place of another", swapped(path)


def record_flips(data, number):
  """The same as `flips` within the records, before the padding of a shard."""
  size = len(data[:65536].rstrip(b"\0"))
  return (x + data[size:] for x in flips(data[:size], number))


def swapped(path):
  """Counts the outcomes of copies of shards in the places of others."""
  names = sorted(x.name for x in path.glob("*.array_record"))
  found = collections.Counter()
  for source in names:
    data = (path / source).read_bytes()
    for target in names:
      if source != target:
        found += count(path, target, lambda _, data=data: [data])
  return found


def main(number=2000):
  """Prints the table."""
  print("| fault | tried | named | harmless | lost |")
  print("|---|---:|---:|---:|---:|")
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "cache"
    write(path)
    for title, found in faults(path, number):
      cells = [found[k] for k in ("named", "harmless", "lost")]
      print(f"| {title} | {sum(cells)} | {' | '.join(map(str, cells))} |")
    shutil.rmtree(path)


if __name__ == "__main__":
  main()
