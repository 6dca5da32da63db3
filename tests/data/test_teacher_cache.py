"""The cache serves the teacher's words on the very views, or refuses."""

import dataclasses
import hashlib
import json
import multiprocessing
import pathlib
import re
import resource
import shutil
import signal
import threading
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data import (
  ArraySource,
  TeacherCache,
  augment_examples,
  fingerprint,
  random_crop,
  random_flip,
  write_teacher_cache,
)
from tests.data import cache_faults

SIZE, CLASSES = 50, 7
ALL = np.arange(SIZE)
rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (SIZE, 4, 4, 1)).astype(np.uint8)
SOURCE = ArraySource(IMAGES, np.arange(SIZE) % CLASSES)
VARIABLES = {"kernel": jnp.asarray(rng.normal(size=(16, CLASSES)), jnp.float32)}


def teacher(variables, images):
  rows = images.reshape(len(images), -1).astype(jnp.float32) / 100
  return rows @ variables["kernel"]


answer = jax.jit(teacher)


def augment(key, images):
  first, second = jax.random.split(key)
  return random_flip(first, random_crop(second, images, padding=1))


@jax.jit
def see(images, index, seed):
  return augment_examples(augment, images, index, seed)


def write(
  path, source=SOURCE, variables=VARIABLES, function=teacher, **options
):
  options = {
    "dataset": "random/train",
    "augment": augment,
    "batch_size": 8,
    "shard_size": 20,
  } | options
  return write_teacher_cache(path, source, function, variables, **options)


def batch(*index):
  index = np.array(index)
  return {"index": index, "image": IMAGES[index]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two seeds, in three shards each; tests must not change it."""
  path = tmp_path_factory.mktemp("cache")
  for seed in (0, 3):
    write(path, seed=seed)
  return path


def test_float32_is_what_the_teacher_says_of_each_view(folder):
  options = {"dataset": "random/train", "teacher": fingerprint(VARIABLES)}
  cache = TeacherCache(folder, augment=augment, num_classes=CLASSES, **options)
  index = np.array([49, 0, 21, 0, 19, 20])
  said = {}
  for seed in (0, 3):
    views = see(IMAGES[index], index, seed)
    said[seed] = cache.attach(batch(*index), seed=seed)["teacher"]["logits"]
    np.testing.assert_allclose(
      said[seed], answer(VARIABLES, views), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(
      said[seed], cache.lookup(index, seed)["logits"]
    )
  assert said[0].dtype == np.float32
  assert np.any(said[0] != said[3])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_likeliest_classes_and_the_rest(tmp_path, dtype):
  options = {"augment": None, "batch_size": 50, "shard_size": 50}
  cache = write(tmp_path, top_k=2, dtype=dtype, **options)
  top = cache.lookup(np.arange(SIZE), 0)
  logits = np.asarray(answer(VARIABLES, IMAGES))
  order = np.argsort(-logits, -1)
  np.testing.assert_array_equal(top["ids"], order[:, :2])
  values = np.take_along_axis(logits, order, -1)
  kept = values[:, :2].astype(jnp.dtype(dtype))
  assert top["values"].dtype == kept.dtype
  error = {"float16": 2e-3, "bfloat16": 1e-2, "float32": 1e-5}[dtype]
  np.testing.assert_allclose(
    top["values"].astype(float), kept.astype(float), rtol=error
  )
  rest = np.log(np.exp(values[:, 2:].astype(float)).sum(-1))
  np.testing.assert_allclose(top["rest"], rest, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_view_depends_on_index_and_seed_alone():
  index = np.array([5, 9, 5, 2])
  images = IMAGES[index]
  views = see(images, index, 1)
  np.testing.assert_array_equal(views[0], views[2])
  for i in range(4):
    row = np.array([i, i, i, 3 - i])
    others = see(images[row], index[row], 1)
    np.testing.assert_array_equal(views[i], others[0])
  alone = see(images[1:2], index[1:2], 1)
  np.testing.assert_array_equal(views[1], alone[0])
  assert np.any(views != np.asarray(see(images, index, 2)))


def test_a_killed_write_loses_its_shard_and_says_where_it_resumes(tmp_path):
  class Dying(ArraySource):
    last = 30

    def __getitem__(self, index):
      seen.append(index)
      if index > self.last:
        raise RuntimeError("killed")
      return super().__getitem__(index)

  seen, progress = [], []
  source = Dying(SOURCE.images, SOURCE.labels)
  options = {
    "augment": None,
    "progress": lambda *pair: progress.append(pair),
  }
  with pytest.raises(RuntimeError, match="killed"):
    write(tmp_path, source, **options)
  with pytest.raises(FileNotFoundError, match="1 of 3 shards of augmentation"):
    TeacherCache(tmp_path, augment=None).lookup([0], 0)
  Dying.last, seen, progress = SIZE, [], []
  cache = write(tmp_path, source, **options)
  assert progress == [(20, 50), (40, 50), (50, 50)]
  assert sorted(set(seen)) == [0, *range(20, 50)]  # 0 tells the shape
  assert cache.attach(batch(7, 45), seed=0)["teacher"]["logits"].shape == (2, 7)
  write(tmp_path, source, **options)
  assert progress[-1] == (50, 50)


def test_a_wrong_image_is_refused(folder):
  cache = TeacherCache(folder, augment=augment)
  shuffled = batch(4, 5, 6) | {"index": np.array([4, 6, 5])}
  with pytest.raises(
    ValueError, match=r"record of example 6.*image 0x.*\(2 of 3"
  ):
    cache.attach(shuffled, seed=0)
  with pytest.raises(
    ValueError, match=r"\(4, 4, 1\) float32; expected .*uint8"
  ):
    cache.attach(
      {"index": np.arange(1), "image": np.zeros((1, 4, 4, 1), np.float32)},
      seed=0,
    )


@pytest.mark.slow
def test_a_record_in_the_wrong_place_is_refused(folder, tmp_path):
  def swapped(name, source, target):
    path = tmp_path / name
    shutil.copytree(folder, path)
    shutil.copy(source, path / target)
    return TeacherCache(path, augment=augment)

  shard = "seed0-00000-of-00003.array_record"
  other_seed = folder / "seed3-00000-of-00003.array_record"
  with pytest.raises(ValueError, match="seed 0, has seed 3; expected 0"):
    swapped("seed", other_seed, shard).lookup([5], 0)
  next_shard = folder / "seed0-00001-of-00003.array_record"
  with pytest.raises(ValueError, match="has index 25; expected 5"):
    swapped("index", next_shard, shard).lookup([5], 0)
  write(tmp_path / "other", variables={"kernel": -VARIABLES["kernel"]})
  with pytest.raises(ValueError, match="example 5, seed 0, has cache 0x"):
    swapped("cache", tmp_path / "other" / shard, shard).lookup([5], 0)
  write(tmp_path / "top", top_k=2)
  with pytest.raises(ValueError, match="has 52 bytes; expected 60"):
    swapped("bytes", tmp_path / "top" / shard, shard).lookup([5], 0)


def test_a_damaged_shard_is_named_and_written_anew(folder, tmp_path):
  path = tmp_path / "copy"
  shutil.copytree(folder, path)
  shard = path / "seed0-00001-of-00003.array_record"
  whole = shard.read_bytes()
  cache = TeacherCache(path, augment=augment)
  wanted = cache.lookup(ALL, 0)["logits"]
  flipped = bytearray(whole)
  flipped[len(whole[:65536].rstrip(b"\0")) // 2] ^= 4  # In the records.
  for damaged in (whole[:-1000], b"", bytes(flipped)):
    shard.write_bytes(damaged)
    words = "copy: seed0-00001-of-00003.array_record is damaged .*delete it"
    with pytest.raises(ValueError, match=words):
      TeacherCache(path, augment=augment).lookup(ALL, 0)
  cache = TeacherCache(path, augment=augment)
  with pytest.raises(ValueError, match=r"00001-of-00003\.array_record is dam"):
    cache.lookup(ALL, 0)
  cache.lookup([3], 0)  # Of another shard.
  shard.unlink()
  write(path)
  np.testing.assert_array_equal(cache.lookup(ALL, 0)["logits"], wanted)


def test_any_damage_of_a_header_is_named(folder, tmp_path):
  file = tmp_path / "header.json"
  text = (folder / "header.json").read_bytes()
  whole, words = TeacherCache(folder, augment=augment).header, set()
  accepted = []
  for bit in range(0, 8 * len(text), 61):
    flipped = bytearray(text)
    flipped[bit // 8] ^= 1 << bit % 8
    file.write_bytes(flipped)
    try:
      accepted.append(TeacherCache(tmp_path, augment=augment).header)
    except ValueError as error:
      words.add(re.search("is damaged|another version", str(error))[0])
  assert "is damaged" in words
  # Another way to write the same number, such as 1e-05 and 1E-05, is no damage.
  assert all(header == whole for header in accepted)
  words = r"header.json is damaged: .*write_teacher_cache with the arguments"
  for damaged in (b"", text[:-40], b"[]", b"null", b"[" * 10**5, b" " * 2**25):
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=words):
      TeacherCache(tmp_path, augment=augment)


def claim(path, header, **claims):
  """Writes a header that claims anything, with the right checksum."""
  fields = dataclasses.asdict(header) | claims
  checksum = hashlib.blake2b(json.dumps(fields).encode(), digest_size=8)
  fields["checksum"] = f"{int.from_bytes(checksum.digest(), 'little'):016x}"
  (path / "header.json").write_text(json.dumps(fields))


def test_what_a_header_claims_takes_no_memory(folder, tmp_path):
  header = TeacherCache(folder, augment=augment).header
  tracemalloc.start()
  claim(tmp_path, header, num_examples=10**9, shard_size=1)
  with pytest.raises(FileNotFoundError, match="has 0 of 1000000000 shards"):
    TeacherCache(tmp_path, augment=augment).lookup([0], 0)
  for claims, words in (
    ({"image": "(1000000, 1000000, 3) uint8"}, "image is .* at most 268435456"),
    ({"kept": {"logits": "(99999999999,) float32"}}, "logits is .* at most"),
    ({"image": "(-4, 4) uint8"}, r"image is '\(-4, 4\) uint8'"),
    ({"image": "uint8"}, "damaged"),
    ({"kept": ["logits"]}, "damaged"),
    ({"kept": {"logits": 3}}, "damaged"),
    ({"num_examples": 0}, "num_examples is 0; expected an integer from 1"),
    ({"num_examples": 1e3}, "num_examples"),
    ({"shard_size": -1}, "shard_size is -1"),
    ({"dtype": "int8"}, "dtype is 'int8'"),
  ):
    claim(tmp_path, header, **claims)
    with pytest.raises(ValueError, match=words):
      TeacherCache(tmp_path, augment=augment)
  assert tracemalloc.get_traced_memory()[1] < 2**24
  tracemalloc.stop()


def test_a_broken_header_is_written_anew(tmp_path):
  write(tmp_path, augment=None)
  file = tmp_path / "header.json"
  text, seen = file.read_text(), []
  for damaged in (text[:100], None):
    file.unlink()
    if damaged:
      file.write_text(damaged)
    write(tmp_path, augment=None, progress=lambda *pair: seen.append(pair))
    assert file.read_text() == text
  assert seen == [(SIZE, SIZE)] * 2  # No shard is computed again.
  file.write_text("")
  with pytest.raises(ValueError, match=r"of-00003\.array_record was written "):
    write(tmp_path, augment=None, dataset="another")
  assert file.read_text() == ""


def test_a_faster_writer_keeps_its_shard(tmp_path):
  """Another writer finishes while this one is in the middle of a shard."""

  class Slow(ArraySource):
    def __getitem__(self, index):
      if index == 15 and not inside:
        inside.append(index)
        cache = write(tmp_path, augment=None, shard_size=SIZE)
        first.append(cache.lookup(np.arange(SIZE), 0)["logits"])
      return super().__getitem__(index)

  inside, first = [], []
  source = Slow(SOURCE.images, SOURCE.labels)
  cache = write(tmp_path, source, augment=None, shard_size=SIZE)
  assert inside
  np.testing.assert_array_equal(
    cache.lookup(np.arange(SIZE), 0)["logits"], first[0]
  )
  assert sorted(x.name for x in tmp_path.iterdir()) == [
    "header.json",
    "seed0-00000-of-00001.array_record",
  ]


@pytest.mark.slow
def test_no_damage_is_taken_for_data(tmp_path):
  cache_faults.write(tmp_path)
  for title, found in cache_faults.faults(tmp_path, 200):
    assert found["lost"] == 0, title
    assert found["named"] > 0, title


def write_at_once(path, ready=None):
  if ready is not None:
    ready.wait()
  write(pathlib.Path(path), augment=None, shard_size=5)


@pytest.mark.slow
def test_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
  ready = threading.Barrier(3)
  errors = []

  def run():
    try:
      write_at_once(tmp_path / "threads", ready)
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=run) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not errors
  context = multiprocessing.get_context("spawn")
  path = str(tmp_path / "processes")
  processes = [
    context.Process(target=write_at_once, args=(path,)) for _ in range(3)
  ]
  for process in processes:
    process.start()
  for process in processes:
    process.join(300)
  assert [process.exitcode for process in processes] == [0, 0, 0]
  for folder in ("threads", "processes"):
    names = sorted(x.name for x in (tmp_path / folder).iterdir())
    assert len(names) == 11
    assert not any(name.endswith("partial") for name in names)
    cache = TeacherCache(tmp_path / folder)
    np.testing.assert_allclose(
      cache.lookup(np.arange(SIZE), 0)["logits"],
      answer(VARIABLES, IMAGES),
      rtol=1e-5,
      atol=1e-5,
    )


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_written(tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  wide = {"kernel": np.ones((16, 4000), np.float32)}
  options = {"variables": wide, "augment": None, "shard_size": 10}

  def fill(done, total):
    if done == 20:
      resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

  try:
    with pytest.raises(
      OSError, match=r"seed0-00002-of-00005\..* cannot be writ"
    ):
      write(tmp_path, progress=fill, **options)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  assert len(list(tmp_path.iterdir())) == 3
  seen = []
  write(tmp_path, progress=lambda *pair: seen.append(pair), **options)
  assert seen[0] == (20, SIZE)
  assert seen[-1] == (SIZE, SIZE)


@pytest.mark.slow
def test_logits_beyond_a_dtype_are_refused_in_either_direction(tmp_path):
  def low(variables, images):
    logits = teacher(variables, images)
    return logits.at[:, 1].set(-1e6).at[:, 2].set(-jnp.inf)

  options = {"augment": None, "function": low}
  words = r"logits reach from -1e\+06 to .*expected numbers that float16 holds"
  with pytest.raises(ValueError, match=words):
    write(tmp_path, dtype="float16", **options)
  with pytest.raises(ValueError, match=words):
    write(tmp_path, dtype="float16", top_k=6, **options)
  # Only the stored classes must fit; masked classes are -inf in every dtype.
  few = write(tmp_path / "few", dtype="float16", top_k=5, **options)
  assert np.isfinite(few.lookup([0], 0)["values"]).all()
  logits = write(tmp_path, **options).lookup([0], 0)["logits"][0]
  assert logits[1] == -1e6
  assert logits[2] == -np.inf


def test_what_is_asked_for_is_one_index_an_image(folder):
  cache = TeacherCache(folder, augment=augment)
  for index, words in (
    (np.arange(3) > 1, r"bool of shape \(3,\); expected integers"),
    ([[1, 2]], r"int64 of shape \(1, 2\)"),
    ([1.0], "float64"),
  ):
    with pytest.raises(ValueError, match=words):
      cache.lookup(index, 0)
  with pytest.raises(ValueError, match="seed is -1; expected an integer from"):
    cache.lookup([1], -1)
  with pytest.raises(ValueError, match="has 1 images; expected one for each"):
    cache.attach({"index": np.ones(3, int), "image": IMAGES[[1]]}, seed=0)
  none = {"index": np.zeros(0, int), "image": IMAGES[:0]}
  logits = cache.attach(none, seed=0)["teacher"]["logits"]
  assert logits.shape == (0, CLASSES)


@pytest.mark.slow
def test_another_cache_is_refused(folder, tmp_path):
  name = fingerprint(VARIABLES)
  with pytest.raises(
    ValueError, match=f"teacher is '{name}', expected 'abc'; num_classes is 7, "
  ):
    TeacherCache(folder, augment=augment, teacher="abc", num_classes=10)
  with pytest.raises(ValueError, match="dataset is 'random/train', expected"):
    TeacherCache(folder, augment=augment, dataset="random/test")
  for wrong in (None, lambda key, x: random_crop(key, x, padding=1)):
    with pytest.raises(ValueError, match="augmentation is not the one given"):
      TeacherCache(folder, augment=wrong)

  def likelier(key, images):
    first, second = jax.random.split(key)
    images = random_crop(second, images, padding=1)
    return random_flip(first, images, probability=0.45)

  with pytest.raises(ValueError, match="augmentation is not the one given"):
    TeacherCache(folder, augment=likelier)
  with pytest.raises(ValueError, match="teacher does not answer as the one"):
    write(folder, function=lambda *args: teacher(*args) / 2, seed=1)
  kernel = np.array(VARIABLES["kernel"])
  kernel[0, 0] += 1e-6
  other = {"kernel": kernel}
  with pytest.raises(ValueError, match="another cache: teacher is"):
    write(folder, variables=other, seed=1)
  with pytest.raises(ValueError, match="top_k is None, expected 3; dtype is"):
    write(folder, top_k=3, dtype="float16")
  with pytest.raises(FileNotFoundError, match=r"no header\.json"):
    TeacherCache(tmp_path)


def test_what_is_not_there_is_said(folder, tmp_path):
  cache = TeacherCache(folder, augment=augment)
  with pytest.raises(ValueError, match=r"index spans -1 to 50; .* 0\.\.49"):
    cache.lookup([-1, 50], 0)
  with pytest.raises(FileNotFoundError, match=r"0 of 3 shards .* seed 1"):
    cache.lookup([0], 1)
  with pytest.raises(ValueError, match="top_k is 7; expected 1 to 6"):
    write(tmp_path, augment=None, top_k=7)
  large = {"kernel": 1e6 * VARIABLES["kernel"]}
  with pytest.raises(ValueError, match="expected numbers that float16 holds"):
    write(tmp_path, augment=None, variables=large, dtype="float16")
  assert not list(tmp_path.iterdir())  # Another dtype may follow.
