"""A few rows at a time: the same values and gradients, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.adaptation import Laplacian, jmmd, lmmd, mmd
from kdjax.reweighting import kmm_weights, target_shift_weights
from kdjax.selection import snd_score
from tests.laws import trace


def of_layers(source, target, **options):
  layers = [[x, jnp.tanh(x)] for x in (source, target)]
  return jmmd(*layers, estimator="unbiased", **options)


def of_classes(source, target, **options):
  labels = jnp.arange(source.shape[0]) % 3
  return lmmd(source, target, labels, jax.nn.softmax(target), **options)


def of_neighbours(source, target, where_source=None, where_target=None, **size):
  del target, where_target
  return snd_score(jax.nn.softmax(source), where=where_source, **size)


def of_labels(source, target, **options):
  labels = jnp.arange(source.shape[0]) % 3
  return target_shift_weights(source, target, labels, num_classes=3, **options)


LOSSES = {
  "mmd": functools.partial(mmd, estimator="unbiased"),
  "laplacian mmd": functools.partial(mmd, kernel=Laplacian()),
  "jmmd": of_layers,
  "lmmd": of_classes,
  "snd": of_neighbours,
}
WEIGHTS = {"kmm": kmm_weights, "target shift": of_labels}


def samples(n_source=17, n_target=22):
  rng = np.random.default_rng(0)
  return rng.normal(size=(n_source, 3)), 0.7 * rng.normal(size=(n_target, 3))


MASKS = {
  "where_source": np.arange(17) % 4 != 1,
  "where_target": np.arange(22) % 5 != 2,
}


def both(function):
  """Compiled: what it gives from whole matrices, and from 5 of their rows."""
  return jax.jit(
    lambda *arguments, **masks: [
      function(*arguments, chunk_size=size, **masks) for size in (None, 5)
    ]
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_the_same_values_and_gradients_without_a_matrix_of_all_pairs(name):
  """7 rows at a time, so that the last chunk is filled up."""
  source, target = samples(640, 703)
  masks = {
    "where_source": np.arange(640) % 4 != 1,
    "where_target": np.arange(703) % 5 != 2,
  }
  step = jax.value_and_grad(LOSSES[name], (0, 1))
  with jax.enable_x64(True):
    programs = [
      jax.jit(functools.partial(step, chunk_size=size))
      .lower(source, target, **masks)
      .compile()
      for size in (None, 7)
    ]
    whole, chunked = (
      jax.device_get(program(source, target, **masks)) for program in programs
    )
  assert np.any(whole[1][0] != 0)
  for got, want in zip(
    jax.tree.leaves(chunked), jax.tree.leaves(whole), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-14)
  # Besides arguments and results; the matrix has 8 bytes a pair.
  memory = [x.memory_analysis().temp_size_in_bytes for x in programs]
  assert memory[1] < 2 * 640 * 703 < 8 * 640 * 703 < memory[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_the_same(name):
  with jax.enable_x64(True):
    whole, chunked = both(WEIGHTS[name])(*samples(), **MASKS)
  np.testing.assert_allclose(chunked, whole, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_what_fills_the_last_chunk_costs_no_digits():
  """Rows far from the origin, of which a chunk of zeros would not be."""
  pair = [np.float32(x + 1e3) for x in samples()]
  _, chunked = both(mmd)(*pair)
  with jax.enable_x64(True):
    whole, _ = both(mmd)(*map(np.float64, pair))
  np.testing.assert_allclose(chunked, whole, rtol=1e-4)


@pytest.mark.slow
def test_devices_agree():
  source, target = map(np.float32, samples(24, 24))
  where = np.arange(24) >= 4, np.arange(24) < 20

  def run(source, target, where_source, where_target, axis_name=None):
    value, gradient = jax.value_and_grad(mmd)(
      source,
      target,
      estimator="unbiased",
      where_source=where_source,
      where_target=where_target,
      chunk_size=2,  # of the 3 rows of a device
      axis_name=axis_name,
    )
    return value, gradient

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    functools.partial(run, axis_name="batch"),
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=(P(), P("batch")),
  )
  expected = jax.jit(run)(source, target, *where)
  for got, want in zip(
    jax.jit(sharded)(source, target, *where), expected, strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)


def no_matrix_of_all_pairs(function, *sizes, chunk_size):
  """Without chunks the program has one; with them it needs far less memory."""
  rows = [jax.ShapeDtypeStruct((n, 8), jnp.float32) for n in sizes]
  whole = jax.make_jaxpr(functools.partial(function, chunk_size=None))(*rows)
  assert "f32[{},{}]".format(*sizes) in str(whole)
  chunked = jax.jit(functools.partial(function, chunk_size=chunk_size))
  # Besides arguments and results.
  memory = chunked.lower(*rows).compile().memory_analysis()
  assert memory.temp_size_in_bytes < np.prod(sizes)  # the matrix has 4 times it


@pytest.mark.slow
def test_weights_hold_no_matrix_of_all_pairs():
  no_matrix_of_all_pairs(of_labels, 2000, 2000, chunk_size=64)
  # The source's own kernel is what the program is about.
  no_matrix_of_all_pairs(kmm_weights, 64, 2**15, chunk_size=2)


@pytest.mark.parametrize("name", LOSSES | WEIGHTS)
def test_a_chunk_has_rows(name):
  run = (LOSSES | WEIGHTS)[name]
  with pytest.raises(ValueError, match=r"chunk_size is 0; expected an integer"):
    trace(run, *map(np.float32, samples()), chunk_size=0)
