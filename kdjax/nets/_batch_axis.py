"""The mapped axis that holds the rest of a batch, as normalizations know it."""

from flax import linen
from flax import nnx

# Flax gives these an axis name too, but their statistics are of one example:
# averaged over devices they would mix examples that have nothing in common.
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
  """Whether a module has statistics of the whole batch.

  Args:
    module: a layer of Flax, NNX or Linen.

  Returns:
    True for a batch normalization, which has an axis name; False for layers
    whose statistics are of one example.
  """
  return hasattr(module, "axis_name") and not isinstance(
    module, _OF_ONE_EXAMPLE
  )


def set_batch_axis(module: nnx.Module, axis_name: str) -> None:
  """Lets batch statistics be averaged over a mapped axis.

  Train steps do so themselves; it is for a network under a mapped function of
  one's own.

  Args:
    module: an NNX module, changed in place.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    Nothing.
  """
  for _, part in nnx.iter_modules(module):
    if is_of_batch(part):
      part.axis_name = axis_name
