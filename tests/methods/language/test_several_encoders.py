"""The options of methods for encoders."""

import jax
import jax.numpy as jnp
import pytest

from kdjax import methods
from kdjax.nets import Outputs

KEY = jax.random.key(0)


def test_pkd_takes_published_kinds_of_layers_alone():
  with pytest.raises(ValueError, match="kind is 'first'; expected"):
    methods.create("pkd", kind="first")
  methods.create("pkd", kind="last")


def test_minilm_v2_has_the_published_relation_heads():
  """A base-size width is a multiple of 48; another one needs a number."""

  def loss(width, **options):
    heads = {"f1": jax.ShapeDtypeStruct((1, 2, 3, width // 2), jnp.float32)}
    outputs = Outputs(
      jax.ShapeDtypeStruct((1, 3, 5), jnp.float32),
      {},
      None,
      queries=heads,
      keys=heads,
      values=heads,
    )
    objective = methods.create("minilm_v2", **options).objective

    def apply(outputs):
      roles = {"student": outputs, "teacher": outputs}
      batch = {"mask": jnp.ones(1, bool)}
      params, state = objective.init(KEY, roles)
      return objective.apply(params, state, roles, batch, KEY)[0]

    return jax.eval_shape(apply, outputs)

  with pytest.raises(ValueError, match=r"width 64; .* of relation_heads = 48"):
    loss(64)
  assert loss(64, relation_heads=16).shape == ()
  assert loss(96).shape == ()
