"""The order of the features survives JAX."""

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax.nets import MLP


def test_more_than_ten_features_stay_in_order():
  def run(inputs):
    widths = range(1, 13)
    model = MLP(2, input_shape=(1, 1, 1), hidden=widths, rngs=nnx.Rngs(0))
    return model(inputs)

  spec = jax.eval_shape(run, jnp.zeros((1, 1, 1, 1)))
  widths = [feature.shape[-1] for feature in spec.features.values()]
  assert widths == list(range(1, 13))
  assert next(iter(spec.features)) == "f00"
