"""Properties that hold for whatever logits come, searched by hypothesis."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kdjax.ops import kl_divergence, masked_mean, softened_softmax

SHAPE = (3, 4)
logits = hnp.arrays(
  np.float32,
  SHAPE,
  elements=st.one_of(
    st.floats(-30, 30, width=32),
    st.sampled_from([-1e4, 0.0, 1e4, -np.inf]),
  ),
)
temperatures = st.floats(0.125, 128, width=32)
masks = hnp.arrays(bool, SHAPE)
search = settings(max_examples=60, deadline=None, derandomize=True)


@jax.jit
@chex.assert_max_traces(n=1)
def value_and_gradient(student, teacher, temperature):
  return jax.value_and_grad(
    lambda s: jnp.sum(kl_divergence(s, teacher, temperature=temperature))
  )(student)


@search
@given(logits, logits, temperatures)
def test_kl_is_not_negative_and_its_gradient_finite(
  student, teacher, temperature
):
  value, gradient = jax.device_get(
    value_and_gradient(student, teacher, temperature)
  )
  assert value >= 0
  chex.assert_tree_all_finite(gradient)
  chex.assert_shape(gradient, SHAPE)
  # A common shift of a row's logits changes nothing, so no gradient is along
  # it, and a class that both exclude gets none.
  # Of a student without any class, the value is infinite.
  some = ~np.isneginf(student).all(-1)
  np.testing.assert_allclose(gradient.sum(-1)[some], 0, atol=1e-4 / temperature)
  excluded = np.isneginf(student) & np.isneginf(teacher)
  np.testing.assert_array_equal(gradient[excluded], 0)


@search
@given(logits, temperatures)
def test_kl_to_itself_is_zero(student, temperature):
  value, gradient = value_and_gradient(student, student, temperature)
  chex.assert_trees_all_equal(
    (value, gradient), (np.zeros(()), np.zeros(SHAPE))
  )


soften = jax.jit(lambda z, t, m: softened_softmax(z, temperature=t, where=m))


@search
@given(logits, temperatures, masks)
def test_probabilities_add_up_to_one_where_there_is_a_class(z, t, mask):
  q = np.asarray(soften(z, t, mask))
  classes = mask & ~np.isneginf(z)
  np.testing.assert_allclose(q.sum(-1), classes.any(-1), rtol=1e-5)
  np.testing.assert_array_equal(q[~classes], 0)


mean = jax.jit(masked_mean)


@search
@given(
  hnp.arrays(np.float32, SHAPE, elements=st.floats(-99, 99, width=32)), masks
)
def test_masked_mean_is_numpys_mean_of_the_selection(values, mask):
  expected = values[mask].mean(dtype=np.float64) if mask.any() else 0.0
  np.testing.assert_allclose(mean(values, mask), expected, atol=1e-4)
