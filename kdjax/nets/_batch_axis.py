"""Batch statistics over a mapped axis."""

from flax import linen, nnx

# These layers of Flax have an axis name too, but compute statistics of single
# examples. Means over devices would mix unrelated examples.
_OF_ONE_EXAMPLE = (
  linen.GroupNorm,
  linen.InstanceNorm,
  linen.LayerNorm,
  linen.RMSNorm,
  nnx.GroupNorm,
  nnx.InstanceNorm,
  nnx.LayerNorm,
  nnx.RMSNorm,
)


def is_of_batch(module: object) -> bool:
  """Tells whether a module computes statistics of the whole batch.

  Args:
    module: a layer of Flax, NNX or Linen.

  Returns:
    True for a batch normalization, which has an axis name; False for layers
    with statistics of single examples.
  """
  return hasattr(module, "axis_name") and not isinstance(
    module, _OF_ONE_EXAMPLE
  )


def set_batch_axis(module: nnx.Module, axis_name: str) -> None:
  """Averages batch statistics over a mapped axis.

  The train steps of kdjax do this. Call it for a network that you run inside a
  mapped function of your own.

  Args:
    module: an NNX module, changed in place.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    None.
  """
  for _, part in nnx.iter_modules(module):
    if is_of_batch(part):
      setattr(part, "axis_name", axis_name)  # noqa: B010
