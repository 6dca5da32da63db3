"""Numerics for all areas: softmax, divergences, distances, masks, solvers.

Every function takes and returns arrays. The room imports only JAX, NumPy and
jaxtyping.
"""

from kdjax.ops.arrays._distances import normalize_as_torch
from kdjax.ops.arrays._distances import pairwise_squared_distances
from kdjax.ops.arrays._distances import safe_abs
from kdjax.ops.arrays._distances import safe_norm
from kdjax.ops.arrays._distances import safe_sqrt
from kdjax.ops.arrays._distances import unit_vectors
from kdjax.ops.arrays._gradients import reverse_gradient
from kdjax.ops.arrays._gradients import with_gradient_of
from kdjax.ops.arrays._masked_rows import gathered_rows
from kdjax.ops.arrays._masked_rows import masked_rows
from kdjax.ops.arrays._masked_rows import nonzero_divisor
from kdjax.ops.arrays._masked_rows import zero_masked
from kdjax.ops.arrays._moments import mean_and_covariance
from kdjax.ops.arrays._nan import any_nan
from kdjax.ops.arrays._nan import at_least
from kdjax.ops.arrays._nan import at_most
from kdjax.ops.arrays._nan import keep_nan
from kdjax.ops.arrays._nan import largest
from kdjax.ops.arrays._nan import smallest
from kdjax.ops.arrays._resizing import adaptive_mean_pool
from kdjax.ops.arrays._resizing import nearest_resize
from kdjax.ops.arrays._resizing import pool_to_smaller
from kdjax.ops.arrays._reversal_ramp import reversal_ramp
from kdjax.ops.arrays._sample_pairs import SamplePair
from kdjax.ops.arrays._sample_pairs import as_sample_pair
from kdjax.ops.arrays._sample_pairs import gaussian_kernel
from kdjax.ops.arrays._sample_pairs import gaussian_rate
from kdjax.ops.arrays._sample_pairs import weights_of_mean_one
from kdjax.ops.devices._collectives import UNKNOWN_AXIS
from kdjax.ops.devices._collectives import AxisName
from kdjax.ops.devices._collectives import gather_batch
from kdjax.ops.devices._collectives import gather_replicated
from kdjax.ops.devices._collectives import gathered_positions
from kdjax.ops.devices._collectives import local_rows
from kdjax.ops.devices._collectives import masked_mean
from kdjax.ops.devices._collectives import mean_over_devices
from kdjax.ops.devices._collectives import replicate_over_devices
from kdjax.ops.devices._collectives import resolve_axis_name
from kdjax.ops.devices._collectives import sum_over_devices
from kdjax.ops.devices._collectives import vary_like
from kdjax.ops.devices._explicit_axes import explicit_mesh
from kdjax.ops.devices._explicit_axes import in_auto_axes
from kdjax.ops.devices._explicit_axes import partitions
from kdjax.ops.devices._export import exportable
from kdjax.ops.devices._export import is_symbolic
from kdjax.ops.devices._row_chunks import in_chunks
from kdjax.ops.probabilities._classes import class_one_hot
from kdjax.ops.probabilities._classes import class_sums
from kdjax.ops.probabilities._cross_entropy import check_labels
from kdjax.ops.probabilities._cross_entropy import cross_entropy
from kdjax.ops.probabilities._cross_entropy import mask_unknown_labels
from kdjax.ops.probabilities._cross_entropy import one_hot_labels
from kdjax.ops.probabilities._divergence_terms import DivergenceTerms
from kdjax.ops.probabilities._divergence_terms import RowStatistics
from kdjax.ops.probabilities._divergence_terms import jensen_shannon_terms
from kdjax.ops.probabilities._divergence_terms import kl_terms
from kdjax.ops.probabilities._divergence_terms import skew_terms
from kdjax.ops.probabilities._divergence_terms import total_variation_terms
from kdjax.ops.probabilities._divergence_terms import weighted_expm1
from kdjax.ops.probabilities._divergences import forward_kl
from kdjax.ops.probabilities._divergences import jensen_shannon
from kdjax.ops.probabilities._divergences import kl_divergence
from kdjax.ops.probabilities._divergences import skew_divergence
from kdjax.ops.probabilities._divergences import total_variation
from kdjax.ops.probabilities._divergences import two_difference
from kdjax.ops.probabilities._softmax import compute_dtype
from kdjax.ops.probabilities._softmax import log_softened_softmax
from kdjax.ops.probabilities._softmax import mask_classes
from kdjax.ops.probabilities._softmax import row_temperature
from kdjax.ops.probabilities._softmax import softened_softmax
from kdjax.ops.solvers._eigh import descending_eigh
from kdjax.ops.solvers._eigh import fix_signs
from kdjax.ops.solvers._eigh import matrix_square_root
from kdjax.ops.solvers._eigh import positive_definite_inverse
from kdjax.ops.solvers._linear_probe import best_threshold
from kdjax.ops.solvers._linear_probe import linear_probe_scores
from kdjax.ops.solvers._linear_probe import standardize_domains
from kdjax.ops.solvers._mixture_likelihood import maximum_likelihood_mixture
from kdjax.ops.solvers._quadratic_program import solve_quadratic_program
from kdjax.ops.solvers._sinkhorn import absolute_epsilon
from kdjax.ops.solvers._sinkhorn import entropic_transport_cost
from kdjax.ops.solvers._sinkhorn import log_transport_plan
from kdjax.ops.solvers._sinkhorn import log_uniform_weights
from kdjax.ops.solvers._sinkhorn import mean_transport_cost
from kdjax.ops.solvers._sinkhorn import sinkhorn_potentials
from kdjax.ops.solvers._sinkhorn import transport_costs
from kdjax.ops.solvers._svd import nonzero_singular_values
from kdjax.ops.solvers._svd import svd
from kdjax.ops.validation._checked import checked
from kdjax.ops.validation._checks import as_fraction
from kdjax.ops.validation._checks import as_number
from kdjax.ops.validation._checks import as_sizes
from kdjax.ops.validation._checks import check_choice
from kdjax.ops.validation._checks import check_integer
from kdjax.ops.validation._checks import check_positive
from kdjax.ops.validation._checks import check_range
from kdjax.ops.validation._checks import get_entry
from kdjax.ops.validation._checks import padding_explains
from kdjax.ops.validation._debug_checks import debug_check
from kdjax.ops.validation._debug_checks import debug_checks
from kdjax.ops.validation._tree_checks import float_leaves
from kdjax.ops.validation._tree_checks import leading_size
from kdjax.ops.validation._tree_checks import real_scalar
from kdjax.ops.validation._validation import call_signature
from kdjax.ops.validation._validation import validate

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
