"""Published methods of each kind, by `fit` from their names alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods, nets, training

CLASSES, DIMS = 3, 5
OPTIONS = {
  "tca": {"num_components": DIMS},
  "jda_map": {"num_components": DIMS},
  "shot": {"num_examples": 30},
  "goat": {"num_examples": 30},
}


def network(dims=16):
  return nets.create(
    "mlp",
    input_shape=(1, 1, dims),
    num_classes=CLASSES,
    hidden=(8,),
    rngs=nnx.Rngs(0),
  )


def domain(seed, shift, count=30):
  rng = np.random.default_rng(seed)
  label = np.arange(count) % CLASSES
  image = rng.normal(size=(count, 1, 1, 16)) + shift
  image[..., 0] += 2 * label[:, None, None]
  return {"image": image.astype(np.float32), "label": label}


SOURCE, TARGET = domain(0, 0.0), domain(1, 0.5)
UNLABELED = {"image": TARGET["image"]}


def fit(name, student, data=None, **options):
  method = methods.create(name, **OPTIONS.get(name, {}))
  learner = training.adapt(student, method, optax.adam(1e-2))
  return training.fit(
    learner,
    data or {"source": SOURCE, "target": UNLABELED},
    key=jax.random.key(0),
    batch_size=10,
    steps=12,
    validation=TARGET,
    verbose=False,
    **options,
  )


@pytest.mark.parametrize(
  "name",
  [
    "tca",
    pytest.param("jda_map", marks=pytest.mark.slow),
    "kmm",
    pytest.param("bbse", marks=pytest.mark.slow),
    pytest.param("adda", marks=pytest.mark.slow),
    pytest.param("shot", marks=pytest.mark.slow),
    pytest.param("goat", marks=pytest.mark.slow),
  ],
)
def test_a_method_of_data_or_stages_needs_its_name_alone(name):
  mapped = name in ("tca", "jda_map")
  student = network(DIMS if mapped else 16)
  result = fit(name, student)
  assert np.isfinite(result.metrics["accuracy"]).all()
  if mapped:  # The source alone has inputs of another width.
    return
  plain = fit("source_only", student)
  gaps = jax.tree.map(
    lambda a, b: jnp.max(jnp.abs(a - b)),
    result.model.variables.params,
    plain.model.variables.params,
  )
  assert max(jax.tree.leaves(gaps)) > 1e-3


def test_a_map_of_the_data_is_not_left_out_in_silence():
  learner = training.adapt(network(), methods.create("tca"), optax.adam(1e-2))
  with pytest.raises(ValueError, match="maps both domains before the first"):
    learner.init(jax.random.key(0), {"source": SOURCE, "target": TARGET})


def test_a_domain_that_a_method_lacks_is_named():
  with pytest.raises(ValueError, match="expected data for each of source, tar"):
    fit("mmd", network(), {"source": SOURCE})
