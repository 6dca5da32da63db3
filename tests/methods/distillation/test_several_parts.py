"""Parts that several methods learn beside the student."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.methods.distillation.features._mgd import _mgd
from kdjax.methods.distillation.features._pad_l2 import _pad_l2
from kdjax.methods.distillation.features._semckd import _semckd
from kdjax.methods.distillation.relations._cc import _cc
from kdjax.methods.distillation.relations._crd_in_batch import _crd_in_batch
from kdjax.methods.distillation.relations._itrd import _itrd
from kdjax.methods.distillation.tokens._vitkd import _vitkd
from tests.methods.distillation.networks import (
  BATCH,
  BOTH,
  KEY,
  ROWS,
  VIT,
  WIDE_VIT,
  pair,
)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "outputs"), [(_mgd, BOTH), (_vitkd, pair(VIT, WIDE_VIT))]
)
def test_devices_draw_the_masks_of_one(method, outputs):
  objective = method()
  params, state = jax.jit(lambda: objective.init(KEY, outputs))()

  def step(outputs, batch, *, axis_name=None):
    return objective.apply(
      params, state, outputs, batch, KEY, axis_name=axis_name
    )[0]

  def sharding(tree):
    return jax.tree.map(
      lambda x: P("batch") if x.shape[:1] == (ROWS,) else P(), tree
    )

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    functools.partial(step, axis_name="batch"),
    mesh=mesh,
    in_specs=(sharding(outputs), P("batch")),
    out_specs=P(),
  )
  np.testing.assert_allclose(
    jax.jit(sharded)(outputs, BATCH), jax.jit(step)(outputs, BATCH), rtol=1e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "method", [_semckd, _cc, _crd_in_batch, _itrd, _pad_l2]
)
def test_parts_start_as_pytorchs_do(method):
  """Published weights suit losses that begin as large as the authors'."""
  params, _ = jax.jit(lambda: method().init(KEY, BOTH))()
  kernels = [np.asarray(x) for x in jax.tree.leaves(params) if x.ndim > 1]
  assert kernels
  for kernel in kernels:
    bound = np.prod(kernel.shape[:-1]) ** -0.5
    assert 0.5 * bound < np.abs(kernel).max() <= bound
