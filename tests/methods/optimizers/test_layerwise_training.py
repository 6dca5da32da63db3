"""Rates by layer, and layers that wait for their turn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.methods import gradual_unfreezing, layerwise_learning_rates

GROUPS = ["stem", r"stage\d", "head"]
PARAMS = {
  "student": {
    "stem": {"kernel": jnp.ones((2, 2))},
    "stage1": {"kernel": jnp.ones(3), "bias": jnp.zeros(3)},
    "head": [jnp.ones(2), jnp.ones(1)],
  },
  "objective": {"projector": jnp.ones(2, jnp.bfloat16)},
}
GRADIENTS = jax.tree.map(lambda x: 2 * jnp.ones_like(x), PARAMS)


def by_group(tree):
  """The first value of each group, and of what is in none."""
  student = tree["student"]
  leaves = (
    student["stem"]["kernel"],
    student["stage1"]["bias"],
    student["head"][1],
    tree["objective"]["projector"],
  )
  return [float(x.ravel()[0]) for x in leaves]


def test_rates_by_decay_and_by_factors():
  for options, expected in (
    ({"decay": 0.5}, [-0.5, -1.0, -2.0, -2.0]),
    ({"factors": [0.0, 0.25, 1.5]}, [0.0, -0.5, -3.0, -2.0]),
  ):
    optimizer = optax.chain(
      optax.sgd(1.0), layerwise_learning_rates(GROUPS, **options)
    )
    updates, _ = optimizer.update(GRADIENTS, optimizer.init(PARAMS))
    assert by_group(updates) == expected
    assert updates["objective"]["projector"].dtype == jnp.bfloat16


def test_rates_may_be_traced():
  traces = []

  @jax.jit
  def step(decay):
    traces.append(None)
    optimizer = layerwise_learning_rates(GROUPS, decay=decay)
    return optimizer.update(GRADIENTS, optimizer.init(PARAMS))[0]

  np.testing.assert_allclose(by_group(step(0.5)), [0.5, 1.0, 2.0, 2.0])
  np.testing.assert_allclose(by_group(step(0.1)), [0.02, 0.2, 2.0, 2.0])
  assert len(traces) == 1


def test_groups_open_from_the_head_down():
  """Frozen parameters do not decay, and bring no momentum with them."""
  optimizer = gradual_unfreezing(
    optax.adamw(0.1, weight_decay=0.1), GROUPS, every=2
  )
  state, params = optimizer.init(PARAMS), PARAMS
  step = jax.jit(optimizer.update)
  moved = []
  for _ in range(5):
    updates, state = step(GRADIENTS, state, params)
    moved.append([u != 0 for u in by_group(updates)])
    params = optax.apply_updates(params, updates)
  assert moved == [
    *2 * [[False, False, True, True]],
    *2 * [[False, True, True, True]],
    [True, True, True, True],
  ]
  inner = optax.tree.get(state, "mu")["student"]
  assert inner["stem"]["kernel"][0, 0] < inner["stage1"]["bias"][0]


def test_all_open_is_the_optimizer_itself():
  plain, opened = (
    optax.adam(0.1),
    gradual_unfreezing(optax.adam(0.1), ["student"], every=jnp.array(7)),
  )

  @jax.jit
  def first(gradients, params):
    return [
      optimizer.update(gradients, optimizer.init(params))[0]
      for optimizer in (plain, opened)
    ]

  expected, updates = first(GRADIENTS, PARAMS)
  jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="expected one of decay and factors"):
    layerwise_learning_rates(GROUPS)
  with pytest.raises(ValueError, match=r"factors has shape \(2,\); expected"):
    layerwise_learning_rates(GROUPS, factors=[1.0, 2.0])
  with pytest.raises(ValueError, match=r"decay is 0.0; expected"):
    layerwise_learning_rates(GROUPS, decay=0.0)
  with pytest.raises(ValueError, match=r"groups\[1\] is 'neck'; expected"):
    layerwise_learning_rates(["stem", "neck"], decay=0.5).init(PARAMS)
  with pytest.raises(ValueError, match="every is 0; expected an integer"):
    gradual_unfreezing(optax.sgd(1.0), GROUPS, every=0)
  with pytest.raises(ValueError, match=r"gradual_unfreezing: groups\[0\]"):
    gradual_unfreezing(optax.sgd(1.0), ["neck"], every=1).init(PARAMS)
