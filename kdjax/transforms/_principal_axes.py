"""Principal axes of a sample."""

from jaxtyping import Array, Bool, Float

from kdjax import ops


def principal_components(
  num_components: int | None, source: Array, target: Array
) -> int:
  """Returns the number of components, by default the largest possible one."""
  dims = source.shape[1]
  if num_components is None:
    return min(dims, source.shape[0], target.shape[0])
  ops.check_integer("num_components", num_components, 1)
  if num_components > dims:
    raise ValueError(
      f"num_components is {num_components}; expected at most {dims}, the dims "
      "of the features."
    )
  return num_components


def principal_axes(
  rows: Float[Array, "rows dims"],
  where: Bool[Array, " rows"] | None,
  axis_name: str | None,
  count: int,
) -> tuple[Float[Array, " dims"], Float[Array, "dims count"]]:
  """Returns the mean and the leading principal axes."""
  _, mean, covariance = ops.mean_and_covariance(rows, where, axis_name)
  return mean, ops.descending_eigh(covariance)[1][:, :count]
