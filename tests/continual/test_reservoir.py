"""The reservoir holds a uniform sample of what it was shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.continual import reservoir_init, reservoir_sample, reservoir_update

BATCH = {
  "x": np.arange(8, dtype=np.float32),
  "label": np.arange(8, dtype=np.int32),
}


def stream(key, examples, mask, size):
  """All batches of a stream, `[batches, batch]`, shown in their order."""

  def show(state, batch):
    i, x, where = batch
    step = jax.random.fold_in(key, i)
    return reservoir_update(state, step, x, where=where), ()

  start = reservoir_init(examples[0], size=size)
  steps = jnp.arange(len(examples))
  return jax.lax.scan(show, start, (steps, examples, mask))[0]


@pytest.mark.slow
def test_each_example_is_kept_with_equal_probability():
  """Early and late, first in its batch and last; no masked one ever."""
  examples = jnp.arange(1.0, 25.0).reshape(4, 6)
  mask = jnp.arange(24).reshape(4, 6) % 4 != 1
  states = jax.jit(
    jax.vmap(lambda key: stream(key, examples, mask, 5)),
  )(jax.random.split(jax.random.key(0), 4000))
  np.testing.assert_array_equal(states.seen, 18)
  rows = np.asarray(states.examples)
  assert all(len(set(row)) == 5 for row in rows)
  rate = np.mean(rows[:, :, None] == np.asarray(examples).ravel(), (0, 1)) * 5
  seen = np.asarray(mask).ravel()
  np.testing.assert_array_equal(rate[~seen], 0)
  # Of 4000 streams: five standard deviations.
  deviation = np.sqrt(5 / 18 * 13 / 18 / 4000)
  np.testing.assert_allclose(rate[seen], 5 / 18, atol=5 * deviation)


@pytest.mark.slow
def test_rows_of_all_arrays_stay_together_and_devices_agree():
  state = reservoir_init(BATCH, size=5)
  assert state.examples["label"].dtype == BATCH["label"].dtype
  key = jax.random.key(1)
  whole = reservoir_update(state, key, BATCH)
  np.testing.assert_array_equal(whole.examples["x"], whole.examples["label"])
  split = jax.tree.map(lambda x: x.reshape(4, 2), BATCH)
  parts = jax.vmap(
    lambda batch: reservoir_update(state, key, batch, axis_name="batch"),
    axis_name="batch",
  )(split)
  for part in parts.examples["x"]:
    np.testing.assert_array_equal(part, whole.examples["x"])


def test_samples_are_different_and_say_what_is_missing():
  state = reservoir_init(BATCH, size=20)
  sample = jax.jit(reservoir_sample, static_argnums=2)
  _, where = sample(state, jax.random.key(0), 12)
  assert not np.any(where)
  state = reservoir_update(state, jax.random.key(0), BATCH)
  examples, where = sample(state, jax.random.key(0), 12)
  assert sorted(np.asarray(examples["x"])[where]) == list(range(8))
  few, where = sample(state, jax.random.key(2), 3)
  assert np.all(where)
  assert len(set(np.asarray(few["x"]))) == 3
  # Independent draws, as those of DER++, differ.
  other, _ = sample(state, jax.random.key(3), 3)
  assert np.any(other["x"] != few["x"])


def test_bad_input_is_named():
  state = reservoir_init(BATCH, size=3)
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="size is 4; expected at most 3"):
    reservoir_sample(state, key, 4)
  with pytest.raises(ValueError, match="examples have the structure"):
    reservoir_update(state, key, {"x": BATCH["x"]})
  with pytest.raises(ValueError, match=r"examples\['x'\] has shape \(8, 1\)"):
    reservoir_update(state, key, BATCH | {"x": np.ones((8, 1))})
  with pytest.raises(ValueError, match="the same number of rows"):
    reservoir_update(state, key, BATCH | {"x": np.ones(3)})
  with pytest.raises(ValueError, match=r"where has shape \(2,\)"):
    reservoir_update(state, key, BATCH, where=np.ones(2, bool))
  with pytest.raises(ValueError, match="expected one or more arrays"):
    reservoir_init({}, size=3)
