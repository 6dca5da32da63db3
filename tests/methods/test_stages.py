"""Which features belong together, and what they look like as maps."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.methods import _stages
from kdjax.nets import Outputs


def outputs(*names):
  return Outputs(
    jnp.zeros((2, 3)), {name: jnp.zeros(2) for name in names}, None
  )


def test_stages_leave_out_the_stem_and_pair_the_deepest():
  student, teacher = outputs("f0", "f1", "f2"), outputs("f0", "f1", "f2", "f3")
  pairs = [("f1", "f2"), ("f2", "f3")]
  assert _stages.matched_stages(student, teacher) == pairs
  assert _stages.matched_stages(outputs("f0"), student) == [("f0", "f2")]
  with pytest.raises(ValueError, match="student has no features"):
    _stages.matched_stages(outputs(), teacher)


@pytest.mark.parametrize(
  ("shape", "expected"),
  [
    ((2, 4, 5, 3), (2, 4, 5, 3)),
    ((2, 7), (2, 1, 1, 7)),
    ((2, 16, 3), (2, 4, 4, 3)),
    ((2, 17, 3), (2, 4, 4, 3)),
    ((2, 18, 3), (2, 4, 4, 3)),
    ((2, 12, 3), (2, 1, 12, 3)),
  ],
)
def test_units_and_tokens_as_maps(shape, expected):
  feature = jnp.arange(np.prod(shape)).reshape(shape)
  as_map = _stages.as_map(feature)
  assert as_map.shape == expected
  assert as_map[-1, -1, -1, -1] == feature[-1].reshape(-1)[-1]


def test_a_teacher_that_is_not_there():
  outputs = Outputs(jnp.ones((2, 3)), {"f0": jnp.ones((2, 4))}, None)
  with pytest.raises(
    ValueError, match=r"there is no teacher; expected one tha"
  ):
    _stages.matched_stages(outputs, None)
