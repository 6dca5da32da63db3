import inspect
import json

import numpy as np
import pytest

from kdjax.data import ArraySource, batches


def numbered(count):
  images = np.zeros((count, 2, 3, 1), np.uint8)
  images += np.arange(count, dtype=np.uint8)[:, None, None, None]
  return ArraySource(images, np.arange(count) % 5)


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def test_every_epoch_has_each_example_once_and_one_shape():
  source = numbered(10)
  read = list(batches(source, 4, seed=1, epochs=2))
  assert len(read) == 6
  for batch in read:
    assert batch["image"].shape == (4, 2, 3, 1)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == batch["index"].dtype == np.int32
    assert batch["mask"].dtype == bool
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["label"], batch["index"] % 5)
  epochs = [
    np.concatenate([b["index"][b["mask"]] for b in part])
    for part in (read[:3], read[3:])
  ]
  for order in epochs:
    assert sorted(order) == list(range(10))
  assert epochs[0].tolist() != epochs[1].tolist()


def test_padding_is_real_and_only_at_the_end_of_an_epoch():
  read = list(batches(numbered(10), 4, epochs=1, shuffle=False))
  assert [b["mask"].tolist() for b in read] == [
    [True] * 4,
    [True] * 4,
    [True, True, False, False],
  ]
  assert read[-1]["index"].tolist() == [8, 9, 0, 1]


def test_source_smaller_than_a_batch():
  (batch,) = batches(numbered(2), 5, epochs=1, shuffle=False)
  assert batch["index"].tolist() == [0, 1, 0, 1, 0]
  assert batch["mask"].sum() == 2


def test_order_is_that_of_the_seed():
  def order(**options):
    return [b["index"].tolist() for b in batches(numbered(9), 3, **options)]

  assert order(seed=1, epochs=1) == order(seed=1, epochs=1)
  assert order(seed=1, epochs=1) != order(seed=2, epochs=1)
  first, second = np.reshape(order(epochs=2), (2, 9)).tolist()
  assert first != second
  assert np.ravel(order(epochs=2, shuffle=False)).tolist() == 2 * [*range(9)]


@pytest.mark.parametrize("position", [0, 2, 3, 5])
def test_resume_gives_the_same_batches(position):
  source = numbered(11)
  first = batches(source, 4, seed=7)
  for _ in range(position):
    next(first)
  state = json.loads(json.dumps(first.get_state()))
  expected = [next(first) for _ in range(7)]

  second = batches(source, 4, seed=7)
  next(second)
  second.set_state(state)
  for batch in expected:
    assert_equal(next(second), batch)


def test_shards_make_up_the_batch_of_one_process():
  source = numbered(10)
  whole = list(batches(source, 4, seed=5, epochs=2))
  shards = [
    list(batches(source, 4, seed=5, epochs=2, shard_index=i, shard_count=2))
    for i in range(2)
  ]
  for batch, *parts in zip(whole, *shards, strict=True):
    joined = {k: np.concatenate([p[k] for p in parts]) for k in batch}
    assert_equal(joined, batch)


def test_errors_name_the_argument():
  source = numbered(4)
  with pytest.raises(ValueError, match="source is empty"):
    batches(numbered(0), 2)
  with pytest.raises(ValueError, match="batch_size is 0"):
    batches(source, 0)
  with pytest.raises(ValueError, match=r"batch_size is 3.*shard_count = 2"):
    batches(source, 3, shard_count=2)
  with pytest.raises(ValueError, match="epochs is 0"):
    batches(source, 2, epochs=0)
  with pytest.raises(ValueError, match="seed is -1"):
    batches(source, 2, seed=-1)
  with pytest.raises(ValueError, match=r"shard_index is 2; .* 0\.\.1"):
    batches(source, 4, shard_index=2, shard_count=2)


@pytest.mark.parametrize(
  "source", [{"image": np.ones(3), "label": np.ones(3)}, np.ones((3, 2, 2, 1))]
)
def test_arrays_are_no_source(source):
  with pytest.raises(TypeError, match=r"expected a Source, such as ArraySour"):
    inspect.unwrap(batches)(source, 2)


def test_sizes_are_integers():
  source = ArraySource(np.ones((3, 2, 2, 1)), np.arange(3))
  with pytest.raises(TypeError, match=r"batch_size is 2.0; expected an integ"):
    inspect.unwrap(batches)(source, 2.0)
  with pytest.raises(ValueError, match=r"shard_count is 0; expected an integ"):
    batches(source, 2, shard_count=0)


@pytest.mark.parametrize(
  "source",
  [
    (np.zeros((8, 2, 2, 1)), np.arange(8)),
    [np.zeros((2, 2, 1))] * 8,
    {"image": np.zeros((8, 2, 2, 1))},
  ],
)
def test_what_is_no_source_fails_at_once(source):
  with pytest.raises(TypeError, match=r"expected a (Source|mapping)"):
    batches(source, 4)
