"""Numerics for all areas: softmax, divergences, distances, masks, solvers.

Every function takes and returns arrays. The room imports only JAX, NumPy and
jaxtyping.
"""

from kdjax.ops.arrays._distances import (
  normalize_as_torch,
  pairwise_squared_distances,
  safe_abs,
  safe_norm,
  safe_sqrt,
  unit_vectors,
)
from kdjax.ops.arrays._gradients import reverse_gradient, with_gradient_of
from kdjax.ops.arrays._masked_rows import (
  gathered_rows,
  masked_rows,
  nonzero_divisor,
  zero_masked,
)
from kdjax.ops.arrays._moments import mean_and_covariance
from kdjax.ops.arrays._nan import (
  any_nan,
  at_least,
  at_most,
  keep_nan,
  largest,
  smallest,
)
from kdjax.ops.arrays._resizing import (
  adaptive_mean_pool,
  nearest_resize,
  pool_to_smaller,
)
from kdjax.ops.arrays._reversal_ramp import reversal_ramp
from kdjax.ops.arrays._sample_pairs import (
  SamplePair,
  as_sample_pair,
  gaussian_kernel,
  gaussian_rate,
  weights_of_mean_one,
)
from kdjax.ops.devices._collectives import (
  UNKNOWN_AXIS,
  AxisName,
  gather_batch,
  gather_replicated,
  gathered_positions,
  local_rows,
  masked_mean,
  mean_over_devices,
  replicate_over_devices,
  resolve_axis_name,
  sum_over_devices,
  vary_like,
)
from kdjax.ops.devices._explicit_axes import (
  explicit_mesh,
  in_auto_axes,
  partitions,
)
from kdjax.ops.devices._export import exportable, is_symbolic
from kdjax.ops.devices._row_chunks import in_chunks
from kdjax.ops.probabilities._classes import class_one_hot, class_sums
from kdjax.ops.probabilities._cross_entropy import (
  check_labels,
  cross_entropy,
  mask_unknown_labels,
  one_hot_labels,
)
from kdjax.ops.probabilities._divergence_terms import (
  DivergenceTerms,
  RowStatistics,
  jensen_shannon_terms,
  kl_terms,
  skew_terms,
  total_variation_terms,
  weighted_expm1,
)
from kdjax.ops.probabilities._divergences import (
  forward_kl,
  jensen_shannon,
  kl_divergence,
  skew_divergence,
  total_variation,
  two_difference,
)
from kdjax.ops.probabilities._softmax import (
  compute_dtype,
  log_softened_softmax,
  mask_classes,
  row_temperature,
  softened_softmax,
)
from kdjax.ops.solvers._eigh import (
  descending_eigh,
  fix_signs,
  matrix_square_root,
  positive_definite_inverse,
)
from kdjax.ops.solvers._linear_probe import (
  best_threshold,
  linear_probe_scores,
  standardize_domains,
)
from kdjax.ops.solvers._mixture_likelihood import maximum_likelihood_mixture
from kdjax.ops.solvers._quadratic_program import solve_quadratic_program
from kdjax.ops.solvers._sinkhorn import (
  absolute_epsilon,
  entropic_transport_cost,
  log_transport_plan,
  log_uniform_weights,
  mean_transport_cost,
  sinkhorn_potentials,
  transport_costs,
)
from kdjax.ops.solvers._svd import nonzero_singular_values, svd
from kdjax.ops.validation._checked import checked
from kdjax.ops.validation._checks import (
  as_fraction,
  as_number,
  as_sizes,
  check_choice,
  check_integer,
  check_positive,
  check_range,
  get_entry,
  padding_explains,
)
from kdjax.ops.validation._debug_checks import debug_check, debug_checks
from kdjax.ops.validation._tree_checks import (
  float_leaves,
  leading_size,
  real_scalar,
)
from kdjax.ops.validation._validation import call_signature, validate

__all__ = (
  "UNKNOWN_AXIS",
  "AxisName",
  "DivergenceTerms",
  "RowStatistics",
  "SamplePair",
  "absolute_epsilon",
  "adaptive_mean_pool",
  "any_nan",
  "as_fraction",
  "as_number",
  "as_sample_pair",
  "as_sizes",
  "at_least",
  "at_most",
  "best_threshold",
  "call_signature",
  "check_choice",
  "check_integer",
  "check_labels",
  "check_positive",
  "check_range",
  "checked",
  "class_one_hot",
  "class_sums",
  "compute_dtype",
  "cross_entropy",
  "debug_check",
  "debug_checks",
  "descending_eigh",
  "entropic_transport_cost",
  "explicit_mesh",
  "exportable",
  "fix_signs",
  "float_leaves",
  "forward_kl",
  "gather_batch",
  "gather_replicated",
  "gathered_positions",
  "gathered_rows",
  "gaussian_kernel",
  "gaussian_rate",
  "get_entry",
  "in_auto_axes",
  "in_chunks",
  "is_symbolic",
  "jensen_shannon",
  "jensen_shannon_terms",
  "keep_nan",
  "kl_divergence",
  "kl_terms",
  "largest",
  "leading_size",
  "linear_probe_scores",
  "local_rows",
  "log_softened_softmax",
  "log_transport_plan",
  "log_uniform_weights",
  "mask_classes",
  "mask_unknown_labels",
  "masked_mean",
  "masked_rows",
  "matrix_square_root",
  "maximum_likelihood_mixture",
  "mean_and_covariance",
  "mean_over_devices",
  "mean_transport_cost",
  "nearest_resize",
  "nonzero_divisor",
  "nonzero_singular_values",
  "normalize_as_torch",
  "one_hot_labels",
  "padding_explains",
  "pairwise_squared_distances",
  "partitions",
  "pool_to_smaller",
  "positive_definite_inverse",
  "real_scalar",
  "replicate_over_devices",
  "resolve_axis_name",
  "reversal_ramp",
  "reverse_gradient",
  "row_temperature",
  "safe_abs",
  "safe_norm",
  "safe_sqrt",
  "sinkhorn_potentials",
  "skew_divergence",
  "skew_terms",
  "smallest",
  "softened_softmax",
  "solve_quadratic_program",
  "standardize_domains",
  "sum_over_devices",
  "svd",
  "total_variation",
  "total_variation_terms",
  "transport_costs",
  "two_difference",
  "unit_vectors",
  "validate",
  "vary_like",
  "weighted_expm1",
  "weights_of_mean_one",
  "with_gradient_of",
  "zero_masked",
)
