"""Conditional domain-adversarial networks (CDAN)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import (
  cdan_map,
  cdan_matrices,
  cdan_weights,
  classifier_discrepancy,
  dann_loss,
  mdd_loss,
)
from tests.laws import trace


def arrays(n_source=5, n_target=4, classes=3):
  rng = np.random.default_rng(0)
  sizes = (n_source, n_source, n_target, n_target)
  return [2 * rng.normal(size=(n, classes)) for n in sizes]


def softmax(z):
  powers = np.exp(z - z.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def test_multilinear_map():
  features, logits, *_ = map(np.float32, arrays())
  probabilities = softmax(logits)
  matrices = cdan_matrices(jax.random.key(0), 3, 3, mapped_dims=20000)

  @jax.jit
  def run(features, probabilities, matrices):
    def total(f, p, stop):
      return jnp.sum(cdan_map(f, p, stop_probability_gradient=stop))

    return (
      cdan_map(features, probabilities),
      cdan_map(features, probabilities, matrices=matrices),
      jax.grad(total, (0, 1))(features, probabilities, True),
      jax.grad(total, 1)(features, probabilities, False),
    )

  mapped, random, gradients, through = jax.device_get(
    run(features, probabilities, matrices)
  )
  expected = np.einsum("nc,nd->ncd", probabilities, features).reshape(5, 9)
  np.testing.assert_allclose(mapped, expected, rtol=1e-6)
  # In expectation, inner products are those of the outer product.
  np.testing.assert_allclose(
    random @ random.T, mapped @ mapped.T, atol=0.1 * np.max(mapped @ mapped.T)
  )
  np.testing.assert_allclose(gradients[0], 1, rtol=1e-6)
  assert not np.any(gradients[1])
  assert np.any(through)
  with pytest.raises(ValueError, match=r"matrices\[1\] has shape \(3, 20000\)"):
    cdan_map(features, probabilities[:, :2], matrices=matrices)
  with pytest.raises(ValueError, match=r"probabilities has shape \(2, 3\)"):
    cdan_map(features, probabilities[:2])
  with pytest.raises(ValueError, match="mapped_dims is 0"):
    cdan_matrices(jax.random.key(0), 3, 3, mapped_dims=0)


@pytest.mark.parametrize("normalize", ["joint", "domain"])
def test_entropy_weights(normalize):
  source, _, target, _ = (softmax(x) for x in arrays())

  def raw(p):
    return 1 + np.exp(np.sum(p * np.log(p + 1e-5), 1))

  w_s, w_t = raw(source), raw(target)
  if normalize == "joint":
    mean = np.concatenate([w_s, w_t]).mean()
    expected = w_s / mean, w_t / mean
  else:
    expected = w_s / w_s.mean(), w_t / w_t.mean()
  logits = arrays()[0][:, 0], arrays()[2][:, 0]
  scalings = "paper", "mean", "pooled"

  @jax.jit
  def run(source, target, logits):
    weights = cdan_weights(source, target, normalize=normalize)
    options = {"source_weights": weights[0], "target_weights": weights[1]}
    return weights, [dann_loss(*logits, scaling=x, **options) for x in scalings]

  with jax.enable_x64(True):
    weights, values = run(source, target, logits)
  for got, want in zip(weights, expected, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-12)
  terms = [np.log1p(np.exp(-logits[0])), np.log1p(np.exp(logits[1]))]
  weighted = [w * x for w, x in zip(expected, terms, strict=True)]
  paper = sum(x.mean() for x in weighted)
  pooled = np.concatenate(weighted).mean()
  np.testing.assert_allclose(values, [paper, paper / 2, pooled], rtol=1e-12)

  single = [np.float32(x) for x in (source, target)]
  where = np.array([1, 0, 1, 1, 0], bool)
  spoiled = np.where(where[:, None], single[0], np.nan)

  @jax.jit
  def others(source, target):
    """Of a mask, of the rows that are kept, and a gradient."""
    slope = jax.grad(
      lambda p: jnp.sum(cdan_weights(p, target, normalize=normalize)[0])
    )
    return (
      cdan_weights(spoiled, target, normalize=normalize, where_source=where)[0],
      cdan_weights(source[where], target, normalize=normalize)[0],
      slope(source),
    )

  masked, alone, gradient = jax.device_get(others(*single))
  np.testing.assert_allclose(masked[where], alone, rtol=1e-5)
  np.testing.assert_array_equal(masked[~where], 0)
  assert not np.any(gradient)


def test_errors_name_the_argument():
  data = list(map(np.float32, arrays()))
  with pytest.raises(ValueError, match=r"target_adversarial_logits has shape"):
    mdd_loss(*data[:3], data[3][:2])
  with pytest.raises(ValueError, match=r"probabilities_b has shape \(4, 3\)"):
    classifier_discrepancy(data[0], data[2])
  with pytest.raises(ValueError, match="normalize is 'sum'"):
    cdan_weights(data[0], data[2], normalize="sum")
  with pytest.raises(ValueError, match=r"margin has shape \(2,\)"):
    trace(mdd_loss, *data, margin=np.ones(2, np.float32))
