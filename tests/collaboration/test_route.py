"""The checkpoints of a teacher teach in turn, and the last one stays."""

import jax
import numpy as np
import pytest

from kdjax.collaboration import route_anchor


def test_shares_are_equal_and_the_step_may_be_traced():
  anchor = jax.jit(
    jax.vmap(lambda step: route_anchor(step, steps=12, num_anchors=4))
  )
  expected = [*np.repeat(np.arange(4), 3), 3, 3]
  np.testing.assert_array_equal(anchor(np.arange(14)), expected)
  with pytest.raises(ValueError, match="route_anchor: num_anchors is 0"):
    route_anchor(0, steps=3, num_anchors=0)
