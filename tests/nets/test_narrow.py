"""A narrow network is the one that is cut out of the wide one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.0])
def test_narrowed_answers_as_the_one_cut_out(width):
  def make(units):
    return nets.MLP(
      3, input_shape=(2, 2, 1), hidden=(units, units), rngs=nnx.Rngs(0)
    )

  x = np.random.default_rng(0).normal(size=(5, 2, 2, 1)).astype(np.float32)
  wide = make(8)
  small = nets.copy_paste(wide, make(max(round(8 * width), 1)), widths="first")
  graph, params = nnx.split(wide)
  narrowed = nets.narrow(nnx.to_pure_dict(params), width)
  nnx.replace_by_pure_dict(params, narrowed)
  answer = nnx.merge(graph, params)(x).logits
  np.testing.assert_allclose(answer, small(x).logits, atol=1e-6)


def test_width_may_be_traced_and_is_checked():
  params = {"a": jnp.ones((2, 4)), "head": jnp.ones(4), "b": jnp.ones(())}
  cut = jax.jit(nets.narrow)(params, 0.5)
  np.testing.assert_array_equal(cut["a"].sum(0), [2, 2, 0, 0])
  np.testing.assert_array_equal(cut["head"], 1)
  assert cut["b"] == 1
  with pytest.raises(ValueError, match="narrow: width is 0"):
    nets.narrow(params, 0.0)
  with pytest.raises(ValueError, match="narrow: width is 2"):
    nets.narrow(params, 2.0)
