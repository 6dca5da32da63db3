"""Metrics: accuracy, fidelity, calibration, similarity and domain distance.

All are pure functions. A metric that is a sum over examples returns one value
an example; `kdjax.ops.masked_mean` gives its mean.
"""

from kdjax.metrics._calibration import (
  ReliabilityCurve,
  expected_calibration_error,
  reliability_curve,
)
from kdjax.metrics._cka import cka
from kdjax.metrics._frechet_distance import frechet_distance
from kdjax.metrics._gradient_cosine import gradient_cosine
from kdjax.metrics._predictions import (
  accuracy,
  agreement,
  entropy,
  negative_log_likelihood,
)
from kdjax.metrics._proxy_a_distance import proxy_a_distance

__all__ = (
  "ReliabilityCurve",
  "accuracy",
  "agreement",
  "cka",
  "entropy",
  "expected_calibration_error",
  "frechet_distance",
  "gradient_cosine",
  "negative_log_likelihood",
  "proxy_a_distance",
  "reliability_curve",
)
