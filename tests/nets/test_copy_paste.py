"""Students built from a teacher's layers and slices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets
from kdjax.language import layer_map

CONFIG = nets.TextEncoderConfig(
  11, width=8, depth=6, num_heads=4, inner_width=12, max_length=8
)


def encoder(seed, **changes):
  """An encoder with NumPy's random values, which cost no compilation."""
  config = dataclasses.replace(CONFIG, **changes)
  network = nnx.eval_shape(lambda: nets.TextEncoder(config, rngs=nnx.Rngs(0)))
  return with_values(network, seed)


def with_values(network, seed):
  rng = np.random.default_rng(seed)
  for _, variable in nnx.iter_graph(network):
    if isinstance(variable, nnx.Param):
      values = rng.normal(size=variable.shape).astype(np.float32)
      variable.set_value(jnp.asarray(values))
  return network


def test_layers_are_copied_exactly():
  teacher, student = encoder(0), encoder(1, depth=3)
  layers = layer_map(3, 6, "copy")
  assert nets.copy_paste(teacher, student, layers=layers) is student
  for mine, theirs in zip(student.blocks, layers, strict=True):
    for a, b in zip(
      jax.tree.leaves(nnx.state(mine)),
      jax.tree.leaves(nnx.state(teacher.blocks[theirs])),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(student.tokens[...], teacher.tokens[...])


def test_a_copy_of_everything_computes_the_same():
  teacher, student = encoder(0, depth=2), encoder(1, depth=2)
  nets.copy_paste(teacher, student)
  tokens = np.array([[1, 2, 3]])
  run = jax.jit(lambda network: network(tokens).embedding)
  np.testing.assert_array_equal(run(student), run(teacher))


@pytest.mark.parametrize(
  ("widths", "units", "heads"),
  [
    ("first", [0, 1, 2, 3], [0, 1, 2, 3]),
    # Heads 0 and 2, of two units each.
    ("even", [0, 2, 4, 6], [0, 1, 4, 5]),
    ({8: [7, 5, 3, 1], 12: range(6)}, [7, 5, 3, 1], [7, 5, 3, 1]),
  ],
)
def test_widths_are_cut_alike_on_every_axis(widths, units, heads):
  teacher = encoder(0, depth=1)
  student = encoder(1, depth=1, width=4, num_heads=2, inner_width=6)
  nets.copy_paste(teacher, student, widths=widths)
  np.testing.assert_array_equal(
    student.tokens[...], teacher.tokens[...][:, jnp.array(units)]
  )
  mine, theirs = (x.blocks[0].attention for x in (student, teacher))
  for layer, rows, columns in (
    ("query", units, heads),
    ("value", units, heads),
    ("output", heads, units),
  ):
    kernel, bias = (
      np.asarray(getattr(theirs, layer).kernel[...])[np.ix_(rows, columns)],
      np.asarray(getattr(theirs, layer).bias[...])[np.asarray(columns)],
    )
    np.testing.assert_array_equal(getattr(mine, layer).kernel[...], kernel)
    np.testing.assert_array_equal(getattr(mine, layer).bias[...], bias)


@pytest.mark.parametrize(
  ("key_heads", "queries", "keys"),
  # Of two keys of two queries: one query of each key, or both of the first.
  [(2, [0, 1, 4, 5], [0, 1, 2, 3]), (1, [0, 1, 2, 3], [0, 1])],
)
def test_queries_stay_with_the_keys_that_they_share(key_heads, queries, keys):
  def decoder(seed, **sizes):
    config = nets.DecoderConfig(5, depth=1, inner_width=4, **sizes)
    shape = nnx.eval_shape(lambda: nets.Decoder(config, rngs=nnx.Rngs(0)))
    return with_values(shape, seed)

  teacher = decoder(0, width=8, num_heads=4, key_heads=2)
  student = decoder(1, width=4, num_heads=2, key_heads=key_heads)
  nets.copy_paste(teacher, student, widths="first")
  mine, theirs = (x.blocks[0].attention for x in (student, teacher))
  for layer, units in (("query", queries), ("key", keys), ("value", keys)):
    np.testing.assert_array_equal(
      getattr(mine, layer).kernel[...],
      np.asarray(getattr(theirs, layer).kernel[...])[:4, units],
    )
  np.testing.assert_array_equal(
    mine.output.kernel[...], np.asarray(theirs.output.kernel[...])[queries, :4]
  )


@pytest.mark.slow
def test_networks_of_images_and_trees_of_parameters_are_copied_too():
  teacher, student = (
    nets.create("mlp", input_shape=(2, 2, 1), num_classes=4, rngs=rngs)
    for rngs in (nnx.Rngs(0), nnx.Rngs(1))
  )
  nets.copy_paste(teacher, student)
  for a, b in zip(
    jax.tree.leaves(nnx.state(student)),
    jax.tree.leaves(nnx.state(teacher)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  source = {"block_3": {"w": np.ones(2)}, "head": np.ones(3)}
  target = {"block_1": {"w": np.zeros(2)}, "own": np.zeros(1)}
  copied = nets.copy_paste(source, target, layers={"block_1": "block_3"})
  np.testing.assert_array_equal(copied["block_1"]["w"], [1, 1])
  np.testing.assert_array_equal(copied["own"], [0])


def test_what_does_not_fit_is_named():
  teacher = encoder(0, depth=2)
  for student, options, text in (
    (encoder(1, depth=2, width=4, num_heads=2), {}, "widths= cuts"),
    (encoder(1, depth=1), {"layers": [5]}, "no blocks.5"),
    (encoder(1, depth=2), {"layers": [0]}, "layers has 1 entries"),
    (
      encoder(1, depth=2, width=4, num_heads=2),
      {"widths": {8: [0]}},
      r"widths\[8\] with 4 numbers",
    ),
    ({"other": np.zeros(1)}, {}, "no path of the student"),
  ):
    with pytest.raises(ValueError, match=text):
      nets.copy_paste(teacher, student, **options)
