"""Plans, and a scanned epoch against the loop over its batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.training import epoch_plan, mean_metrics, scan_epoch, scan_evaluation

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ("examples", "size"), [(10, 4), (8, 4), (3, 5), (1, 4)]
)
def test_every_example_counts_once_and_padding_is_real(examples, size):
  plan = epoch_plan(examples, size, key=KEY)
  index, mask = np.asarray(plan["index"]), np.asarray(plan["mask"])
  assert index.shape == mask.shape == (-(-examples // size), size)
  assert sorted(index[mask]) == list(range(examples))
  assert 0 <= index.min() <= index.max() < examples
  np.testing.assert_array_equal(mask.ravel(), np.sort(mask.ravel())[::-1])


def test_plans_follow_their_key():
  plans = [epoch_plan(50, 10, key=k)["index"] for k in jax.random.split(KEY)]
  assert np.any(plans[0] != plans[1])
  in_order = epoch_plan(50, 10)["index"]
  np.testing.assert_array_equal(in_order.ravel(), np.arange(50))
  swept = jax.vmap(lambda key: epoch_plan(50, 10, key=key))(
    jax.random.split(KEY)
  )
  np.testing.assert_array_equal(swept["index"], np.stack(plans))


def test_wrong_sizes_are_refused():
  with pytest.raises(ValueError, match="num_examples is 0"):
    epoch_plan(0, 4)
  with pytest.raises(ValueError, match="batch_size is 0"):
    epoch_plan(4, 0)


@pytest.mark.slow
def test_epoch_equals_the_loop_over_its_batches():
  def step(state, frozen, batch, key):
    noise = jax.random.normal(jax.random.fold_in(key, state["step"]))
    gap = batch["x"] * frozen["scale"] - state["w"] + noise
    total = jnp.sum(gap, where=batch["mask"])
    count = jnp.sum(batch["mask"])
    moved = {"step": state["step"] + 1, "w": state["w"] + 0.1 * total / count}
    return moved, {"gap": (total, count)}

  data = {"x": jnp.arange(10.0), "label": jnp.arange(10)}
  plan = epoch_plan(10, 4, key=KEY)
  start = {"step": jnp.array(0), "w": jnp.array(0.0)}
  frozen = {"scale": 0.5}
  expected, history = start, []
  for index, mask in zip(plan["index"], plan["mask"], strict=True):
    batch = {"x": data["x"][index], "index": index, "mask": mask}
    expected, metrics = step(expected, frozen, batch, KEY)
    history.append(metrics["gap"])
  state, metrics = jax.jit(scan_epoch(step))(start, frozen, data, plan, KEY)
  np.testing.assert_allclose(state["w"], expected["w"], rtol=1e-6)
  assert state["step"] == 3
  np.testing.assert_allclose(
    np.stack(metrics["gap"], -1), np.asarray(history), rtol=1e-6
  )
  np.testing.assert_allclose(
    mean_metrics(metrics, axis=0)["gap"],
    np.sum(history, axis=0)[0] / 10,
    rtol=1e-6,
  )


def test_evaluation_sums_over_batches():
  def evaluate(variables, frozen, batch):
    count = jnp.sum(batch["mask"])
    return {"x": (jnp.sum(batch["x"], where=batch["mask"]) * variables, count)}

  metrics = scan_evaluation(evaluate)(
    2.0, {}, {"x": jnp.arange(10.0)}, epoch_plan(10, 4)
  )
  assert metrics == {"x": (90.0, 10)}
