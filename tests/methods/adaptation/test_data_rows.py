"""Methods that change all examples before the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, reweighting, transforms
from kdjax.nets import Outputs

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
DATA = {
  "source": {
    "image": jnp.asarray(RNG.normal(size=(12, 4)), jnp.float32),
    "label": jnp.arange(12) % 3,
  },
  "target": {"image": jnp.asarray(RNG.normal(1, 1, (9, 4)), jnp.float32)},
}
PAIR = [DATA[k]["image"] for k in ("source", "target")]


def answer(inputs):
  return Outputs(inputs[:, :3], {}, inputs)


def test_weights_are_an_entry_of_the_source():
  out = methods.create("kmm").data(DATA, answer)
  expected = reweighting.kmm_weights(*PAIR)
  np.testing.assert_allclose(out["source"]["weight"], expected, rtol=1e-5)
  assert out["target"] is DATA["target"]


def test_weights_of_classes_read_the_network_of_the_source():
  method = methods.create("bbse")
  assert list(method.before) == ["source"]
  out = method.data(DATA, answer)
  logits = [x[:, :3] for x in PAIR]
  expected = reweighting.bbse_weights(*logits, DATA["source"]["label"])
  np.testing.assert_allclose(out["source"]["weight"], expected, rtol=1e-5)


def test_a_map_moves_both_domains_and_marks_the_source():
  out = methods.create("tca", num_components=2).data(DATA, answer)
  fitted = transforms.tca(*PAIR, num_components=2)
  for name, rows in zip(("source", "target"), PAIR, strict=True):
    expected = fitted.apply(rows, domain=name)
    np.testing.assert_allclose(out[name]["image"], expected, rtol=1e-4)
  assert out["source"]["mapped"].shape == (12,)


def test_images_become_images_of_one_pixel():
  data = {
    k: part | {"image": part["image"].reshape(-1, 2, 2, 1)}
    for k, part in DATA.items()
  }
  out = methods.create("coral_map").data(data, answer)
  assert out["source"]["image"].shape == (12, 1, 1, 4)


@pytest.mark.parametrize("name", ["kmm", "coral_map"])
def test_steps_without_the_data_step_raise(name):
  prepare = methods.create(name).prepare
  with pytest.raises(ValueError, match="before the first step"):
    prepare(KEY, DATA, None)


def test_goat_learns_from_domain_after_domain():
  method = methods.create("goat", num_examples=5, num_steps=2)
  out = method.data(DATA, answer)
  assert out["target"]["image"].shape == (10, 4)
  objective = method.objective
  outputs = {"target": answer(out["target"]["image"])}
  _, state = objective.init(KEY, outputs)
  for kept in ([True, False], [False, True]):
    state = objective.renew(state, outputs)
    own = state["objectives"]["goat"]["kept"].reshape(2, 5)
    np.testing.assert_array_equal(jnp.any(own, 1), kept)


def test_an_average_is_kept_if_the_optimizer_keeps_none():
  method = methods.create("mean_teacher", decay=0.9)
  params = {"w": jnp.array(1.0)}
  optimizer = method.optimizer(optax.sgd(1.0))
  state = optimizer.init(params)
  _, state = optimizer.update({"w": jnp.array(1.0)}, state, params)
  average = optax.tree.get(state, "parameter_average")
  np.testing.assert_allclose(average["w"], 0.9, rtol=1e-6)
  own = optax.chain(optax.sgd(1.0), methods.parameter_ema(0.5))
  state = method.optimizer(own).init(params)
  assert len(optax.tree.get_all_with_path(state, "parameter_average")) == 1
