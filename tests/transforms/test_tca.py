"""Transfer component analysis (TCA)."""

import functools

import jax
import numpy as np
import pytest

from kdjax.transforms import tca
from tests.transforms.component_maps import (
  CASES,
  fit_and_apply,
  oracle,
  same_up_to_sign,
  samples,
)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "normalize", "scaling"), CASES)
def test_tca_equals_scipy(kernel, normalize, scaling):
  source, target, _ = samples()
  form = functools.partial(
    tca,
    num_components=3,
    kernel=kernel,
    normalize=normalize,
    scaling=scaling,
  )
  hyper = {} if kernel != "rbf" else {"gamma": 0.4}
  with jax.enable_x64(True):
    fitted, mapped = fit_and_apply(form, source, target, ridge=0.3, **hyper)
  expected, _ = oracle(
    source, target, None, components=3, ridge=0.3, kernel=kernel, gamma=0.4,
    normalize=normalize, scaling=scaling, iterations=1,
  )  # fmt: skip
  same_up_to_sign(mapped, expected, 1e-7)
  assert fitted.target_labels is None
  columns = np.asarray(fitted.coefficients)
  peaks = np.take_along_axis(columns, np.abs(columns).argmax(0)[None], 0)
  assert np.all(peaks > 0)


def fit_tca(source, target, **options):
  return tca(source, target, num_components=2, **options)


def test_a_map_is_a_pytree_and_a_ridge_an_argument():
  source, target = map(np.float32, samples()[:2])
  traces = []

  @jax.jit
  def run(source, target, ridge):
    traces.append(None)
    return fit_tca(source, target, ridge=ridge)

  fitted = run(source, target, 0.1)
  assert not np.allclose(
    fitted.coefficients, run(source, target, 9.0).coefficients
  )
  assert len(traces) == 1
  copy = jax.tree.map(lambda x: x, fitted)
  apply = jax.jit(lambda fitted, rows: fitted.apply(rows))
  np.testing.assert_array_equal(apply(copy, target), apply(fitted, target))
