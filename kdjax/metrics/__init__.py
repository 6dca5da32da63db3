"""What to report of a student: accuracy, fidelity to its teacher, calibration.

Pure functions of logits. Those that are sums over examples return one value an
example, for `kdjax.ops.masked_mean` to reduce.
"""

from kdjax.metrics._calibration import ReliabilityCurve
from kdjax.metrics._calibration import expected_calibration_error
from kdjax.metrics._calibration import reliability_curve
from kdjax.metrics._prediction import accuracy
from kdjax.metrics._prediction import agreement
from kdjax.metrics._prediction import negative_log_likelihood

__all__ = (
  "ReliabilityCurve",
  "accuracy",
  "agreement",
  "expected_calibration_error",
  "negative_log_likelihood",
  "reliability_curve",
)
