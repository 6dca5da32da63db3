"""Bytes of a message."""

import jax
import jax.numpy as jnp

from kdjax.federated import message_bytes


def test_bytes_of_all_arrays_of_their_types():
  tree = {"a": jnp.zeros((3, 4)), "b": [jnp.zeros(5, jnp.int8), None]}
  assert message_bytes(tree) == 3 * 4 * 4 + 5
  shapes = jax.eval_shape(lambda: tree)
  assert message_bytes(shapes) == message_bytes(tree)
