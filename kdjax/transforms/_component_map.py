"""Projections onto transfer components, and their eigenproblem."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops

_product = functools.partial(jnp.matmul, precision="highest")


@ops.exportable
@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("coefficients", "anchors", "rate", "target_labels"),
  meta_fields=("normalize",),
)
@dataclasses.dataclass(frozen=True)
class ComponentMap:
  """A fitted projection onto transfer components, the same for both domains.

  `fitted.apply(rows)` maps rows of both domains, including rows outside the
  fitted sample. A pytree; only `normalize` is static.

  Attributes:
    coefficients: `[dims, components]` for the kernels "primal" and "linear",
      `[anchors, components]` for "rbf".
    anchors: `[source + target, dims]`, the fitted rows, for "rbf", or None.
    rate: gamma of "rbf", or None.
    target_labels: `[target]`, the last pseudo-labels of joint distribution
      adaptation; None for TCA.
    normalize: whether rows are scaled to length 1 before and after the map.
  """

  coefficients: Float[Array, "features components"]
  anchors: Float[Array, "anchors dims"] | None
  rate: Float[Array, ""] | None
  target_labels: Int[Array, " target"] | None
  normalize: bool

  @ops.validate
  def apply(
    self, rows: Float[Array, "rows dims"], *, domain: str = "source"
  ) -> Float[Array, "rows components"]:
    """Maps rows; the map is the same for domain "source" and "target"."""
    ops.check_choice("domain", domain, ("source", "target"))
    known = self.coefficients if self.anchors is None else self.anchors.T
    if rows.ndim != 2 or rows.shape[1] != known.shape[0]:
      raise ValueError(
        f"apply: rows has shape {rows.shape}; expected [rows, dims] = (rows, "
        f"{known.shape[0]}), the dims of the fit."
      )
    dtype = jnp.promote_types(ops.compute_dtype(rows), self.coefficients.dtype)
    rows = (
      unit_rows(rows.astype(dtype)) if self.normalize else rows.astype(dtype)
    )
    if self.anchors is not None and self.rate is not None:
      rows = ops.gaussian_kernel(rows, self.anchors, self.rate)
    mapped = _product(rows, self.coefficients)
    return unit_rows(mapped) if self.normalize else mapped


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("features", "mask", "rows", "rate", "split"),
  meta_fields=("kernel", "normalize", "scaling", "count"),
)
@dataclasses.dataclass(frozen=True)
class Problem:
  """The eigenproblem of both samples, without the contrasts between them.

  Attributes:
    features: K transposed, 0 where masked; one row for each row of the samples.
    mask: the mask of the rows, as numbers.
    rows: the rows of both samples.
    rate: gamma of "rbf".
    split: `[source]`; only its length is used.
    kernel: "primal", "linear" or "rbf".
    normalize: whether rows are scaled to length 1.
    scaling: "paper" or "unit".
    count: the number of components.
  """

  features: Float[Array, "rows features"]
  mask: Float[Array, " rows"]
  rows: Float[Array, "rows dims"]
  rate: Float[Array, ""] | None
  split: Float[Array, " source"]
  kernel: str
  normalize: bool
  scaling: str
  count: int

  def contrast(self) -> Float[Array, " rows"]:
    """Returns e; features times e is the difference of the means."""
    size = self.split.size

    def share(mask: Array) -> Array:
      return mask / jnp.maximum(jnp.sum(mask), 1)

    return jnp.concatenate([share(self.mask[:size]), -share(self.mask[size:])])

  @jax.default_matmul_precision("highest")
  def solve(
    self, contrasts: Float[Array, "rows contrasts"], ridge: ArrayLike
  ) -> Float[Array, "features components"]:
    """Returns A for M = contrasts times contrasts transposed."""
    ops.check_positive("ridge", ridge)
    dtype = self.features.dtype
    ridge = ops.as_number("ridge", ridge, dtype)
    shifts = self.features.T @ contrasts
    within = shifts @ shifts.T
    if self.normalize:
      size = ops.safe_norm(contrasts.T @ contrasts, axis=None)
      within /= jnp.where(size > 0, size, 1.0)
    # A ridge below the rounding error would leave no Cholesky factor.
    floor = jnp.trace(within) * jnp.finfo(dtype).eps
    identity = jnp.eye(within.shape[0], dtype=dtype)
    factor = jnp.linalg.cholesky(within + jnp.maximum(ridge, floor) * identity)
    mean = self.mask @ self.features / jnp.maximum(jnp.sum(self.mask), 1)
    centered = self.mask[:, None] * (self.features - mean[None])
    if ops.is_symbolic(
      centered.shape[0]
    ):  # A solver needs columns of known number.
      half = solve_triangular(factor, centered.T @ centered, lower=True)
      spread = solve_triangular(factor, half.T, lower=True)
    else:
      white = solve_triangular(factor, centered.T, lower=True)
      spread = white @ white.T
    values, vectors = ops.descending_eigh(spread)
    values, vectors = values[: self.count], vectors[:, : self.count]
    columns = solve_triangular(factor.T, vectors, lower=False)
    if self.scaling == "unit":
      return unit_rows(columns.T).T
    noise = values.size * jnp.finfo(dtype).eps * jnp.max(values, initial=0.0)
    used = values > noise
    scales = jnp.where(used, 1 / jnp.sqrt(jnp.where(used, values, 1.0)), 0.0)
    return columns * scales[None]

  def as_map(
    self,
    coefficients: Float[Array, "features components"],
    target_labels: Int[Array, " target"] | None,
    axis_name: str | None,
  ) -> ComponentMap:
    """Returns the map for rows outside the sample, the same on all devices."""
    if self.kernel == "primal":
      anchors = None
    else:
      coefficients = self.mask[:, None] * coefficients
      anchors = self.rows if self.kernel == "rbf" else None
    if self.kernel == "linear":
      coefficients = _product(self.rows.T, coefficients)
    coefficients = ops.fix_signs(coefficients)
    # Each device computes the map from the gathered rows. Their mean has the
    # gradient of one map; the copies would have one gradient each.
    coefficients, anchors = ops.mean_over_devices(
      (coefficients, anchors), axis_name
    )
    return ComponentMap(
      coefficients, anchors, self.rate, target_labels, self.normalize
    )


def make_problem(
  pair: ops.SamplePair,
  kernel: str,
  gamma: ArrayLike | None,
  normalize: bool,
  scaling: str,
  num_components: int | None,
) -> Problem:
  """Returns the eigenproblem of a pair of samples."""
  ops.check_choice("kernel", kernel, ("primal", "linear", "rbf"))
  ops.check_choice("scaling", scaling, ("paper", "unit"))
  rows = jnp.concatenate([pair.source, pair.target])
  mask = jnp.concatenate([pair.source_mask, pair.target_mask])
  rows = unit_rows(rows) if normalize else rows
  rate = None
  features = rows
  if kernel == "rbf":
    rate = ops.gaussian_rate(gamma, rows)
    features = ops.gaussian_kernel(rows, rows, rate)
    features *= mask[:, None] * mask[None]
  elif kernel == "linear":
    features = _product(rows, rows.T)
  most = features.shape[1]
  if num_components is None:
    num_components = min(30, most)
  ops.check_integer("num_components", num_components, 1)
  if num_components > most:
    raise ValueError(
      f"num_components is {num_components}; expected at most the {most} "
      f"features of kernel {kernel!r}."
    )
  return Problem(
    features,
    mask,
    rows,
    rate,
    pair.source_mask,
    kernel,
    normalize,
    scaling,
    num_components,
  )


def unit_rows(rows: Float[Array, "rows dims"]) -> Float[Array, "rows dims"]:
  """Returns rows of length 1; a row of zeros stays zero."""
  lengths = ops.safe_norm(rows, keepdims=True)
  return rows / jnp.where(lengths > 0, lengths, 1.0)
