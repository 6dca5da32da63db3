"""The learner of paired modalities: towers, teachers and retrieval."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import nets
from kdjax.methods import create
from kdjax.training import Network, align

KEY = jax.random.key(0)
TEXT = jax.random.normal(jax.random.key(1), (8, 1, 1, 4))
BATCH = {
  "image": jnp.concatenate([TEXT, TEXT], -1),
  "text": TEXT,
  "mask": jnp.arange(8) < 7,
}


def towers(width):
  def tower(size):
    return Network.of(
      lambda rngs: nets.MLP(
        3, input_shape=(1, 1, size), hidden=(width,), rngs=rngs
      )
    )

  return {"image": tower(8), "text": tower(4)}


def test_towers_learn_to_find_each_other():
  learner = align(towers(6), create("clip"), optax.adam(3e-2))
  state = learner.init(KEY, BATCH)
  step, look = jax.jit(learner.step), jax.jit(learner.evaluate)
  before = look(state, learner.frozen, BATCH)
  for _ in range(60):
    state, metrics = step(state, learner.frozen, BATCH, KEY)
  after = look(state, learner.frozen, BATCH)
  for name in ("image_to_text", "text_to_image"):
    total, count = after[name]
    assert count == 7
    assert total > before[name][0]
    assert total >= 6
  # By chance it is log 7, 1.9.
  assert metrics["loss"][0] / 7 < 1.0
  scale = jnp.exp(state.params["objective"]["clip"]["log_scale"])
  assert 1 < scale < 100


@pytest.mark.slow
def test_a_wider_teacher_is_met_through_maps_that_are_trained():
  learner = align(
    towers(6), create("clip_kd"), optax.sgd(0.1), teachers=towers(5)
  )
  state = learner.init(KEY, BATCH)
  own = state.params["objective"]["clip_kd"]
  assert own["image"]["kernel"].shape == (6, 5)
  moved, _ = jax.jit(learner.step)(state, learner.frozen, BATCH, KEY)
  change = jax.tree.map(
    lambda a, b: np.any(a != b), own, moved.params["objective"]["clip_kd"]
  )
  assert all(jax.tree.leaves(change))
  # The authors' scale of ICL is its own exponent.
  np.testing.assert_allclose(own["interactive"], np.log(1 / 0.07), rtol=1e-6)


def test_unpaired_batches_and_no_towers_are_errors():
  with pytest.raises(ValueError, match="students is empty"):
    align({}, create("clip"), optax.sgd(0.1))
  learner = align(towers(6), create("clip"), optax.sgd(0.1))
  state = learner.init(KEY, BATCH)
  unpaired = BATCH | {"text": TEXT[:5]}
  message = (
    r"batch\['text'\] has 5 rows and batch\['image'\] 8; expected paired"
  )
  with pytest.raises(ValueError, match=message):
    learner.step(state, {}, unpaired, KEY)
  with pytest.raises(ValueError, match=message):
    learner.init(KEY, unpaired)
