"""Closed-form maps between domains: fitted on arrays, applied to arrays.

A fitted map is a pytree whose `apply(rows, domain="source")` maps rows inside
or outside the fitted sample. Images and batch statistics have separate maps.
"""

from kdjax.transforms._adabn import (
  NormStatistics,
  adabn_init,
  adabn_normalize,
  adabn_update,
)
from kdjax.transforms._affine_map import AffineMap
from kdjax.transforms._component_map import ComponentMap
from kdjax.transforms._coral import coral_transform
from kdjax.transforms._fourier_domain_adaptation import (
  fourier_domain_adaptation,
)
from kdjax.transforms._gfk import gfk
from kdjax.transforms._interpolated_domains import (
  InterpolatedDomains,
  interpolate_domains,
)
from kdjax.transforms._joint_distribution_adaptation import (
  joint_distribution_adaptation,
)
from kdjax.transforms._linear_ot import linear_ot
from kdjax.transforms._subspace_alignment import subspace_alignment
from kdjax.transforms._tca import tca

__all__ = (
  "AffineMap",
  "ComponentMap",
  "InterpolatedDomains",
  "NormStatistics",
  "adabn_init",
  "adabn_normalize",
  "adabn_update",
  "coral_transform",
  "fourier_domain_adaptation",
  "gfk",
  "interpolate_domains",
  "joint_distribution_adaptation",
  "linear_ot",
  "subspace_alignment",
  "tca",
)
