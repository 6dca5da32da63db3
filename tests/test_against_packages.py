"""Values of scikit-learn and POT, from the packages themselves.

POT is no dependency: its tests run where it is installed.
"""

import functools

import jax
import numpy as np
import pytest
import scipy.stats

from kdjax import adaptation, reweighting, transforms
from tests.packages import agree, double, package, samples, squared

# What the packages warn of is not kdjax's to repair.
pytestmark = [
  pytest.mark.packages,
  pytest.mark.filterwarnings("ignore"),
]


def balanced_regression(rows, labels, ridge):
  linear_model = package("sklearn.linear_model")
  model = linear_model.LogisticRegression(
    C=1 / (ridge * len(rows)),
    class_weight="balanced",
    solver="newton-cholesky",
    tol=1e-12,
  )
  return model.fit(rows, labels)


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_h_divergence_of_a_logistic_regression(ridge):
  """The errors that its half-spaces make on the rows that a fold holds out."""
  source, target = samples(61, 43)
  rows = np.concatenate([source, target])
  is_source = np.arange(104) < 61
  halves = np.where(is_source, 0.5 / 61, 0.5 / 43)
  rows = rows - halves @ rows
  rows = rows / np.sqrt(halves @ rows**2)
  fold = np.concatenate([np.arange(61) % 4, np.arange(43) % 4])
  wrong = np.zeros(104, bool)
  for held_out in (fold == i for i in range(4)):
    seen = ~held_out
    model = balanced_regression(rows[seen], is_source[seen], ridge)
    scores = model.decision_function(rows)
    cuts = np.sort(scores[seen])
    above = scores[seen] > ((cuts[1:] + cuts[:-1]) / 2)[:, None]
    gaps = above[:, is_source[seen]].mean(1) - above[:, ~is_source[seen]].mean(
      1
    )
    best = np.argmax(np.abs(gaps))
    cut = (cuts[best] + cuts[best + 1]) / 2
    wrong |= held_out & (((scores > cut) == (gaps[best] > 0)) != is_source)
  result = double(
    functools.partial(adaptation.h_divergence, folds=4),
    source,
    target,
    ridge=ridge,
  )
  errors = wrong[is_source].mean(), wrong[~is_source].mean()
  agree([result.source_error, result.target_error], errors, 1e-12)
  agree(result.value, 2 * (1 - sum(errors)), 1e-12)


@pytest.mark.parametrize("sizes", [(20, 10), (20, 40)])
def test_discriminator_weights_of_a_logistic_regression(sizes):
  source, target = samples(*sizes)
  rows, is_source = np.concatenate([source, target]), np.arange(sum(sizes)) < 20
  for ridge in (None, 0.2):
    penalty = 1 / len(rows) if ridge is None else ridge
    model = balanced_regression(rows, is_source, penalty)
    ratios = np.exp(-model.decision_function(source))
    weights = double(
      functools.partial(reweighting.discriminator_weights, ridge=ridge),
      source,
      target,
    )
    agree(weights, ratios / ratios.mean(), 1e-7)


def test_density_ratios_of_large_samples():
  """Both estimates order the rows as the truth and two kernel densities do."""
  neighbors = package("sklearn.neighbors")
  rng = np.random.default_rng(0)
  source, target = rng.normal(size=(1500, 2)), rng.normal(size=(1500, 2))
  target = 0.7 * target + np.array([0.6, -0.3])
  normal = scipy.stats.norm
  truth = np.prod(
    normal.pdf(source, [0.6, -0.3], 0.7) / normal.pdf(source), axis=1
  )
  densities = [
    neighbors.KernelDensity(bandwidth=0.3).fit(x).score_samples(source)
    for x in (source, target)
  ]
  ratio = np.exp(densities[1] - densities[0])
  pair = np.float32(source), np.float32(target)
  estimates = {
    "kliep": jax.jit(reweighting.kliep_weights)(*pair, gamma=1.0),
    "ulsif": jax.jit(reweighting.ulsif_weights)(*pair, gamma=1.0, ridge=0.01),
  }
  error = np.mean(np.abs(ratio / ratio.mean() - truth))
  for weights in estimates.values():
    assert scipy.stats.spearmanr(weights, ratio).statistic > 0.9
    assert scipy.stats.spearmanr(weights, truth).statistic > 0.9
    assert np.mean(np.abs(weights - truth)) < error


def test_sinkhorn_divergence_of_pot():
  ot = package("ot")
  source, target = samples()

  def regularized(a, b, epsilon):
    costs = squared(a, b)
    shares = np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))
    plan = ot.sinkhorn(
      *shares, costs, epsilon, method="sinkhorn_log", numItermax=10**4,
      stopThr=1e-14,
    )  # fmt: skip
    ratio = plan / (shares[0][:, None] * shares[1])
    return np.sum(plan * costs) + epsilon * np.sum(plan * np.log(ratio))

  for epsilon in (0.3, 3.0):
    expected = regularized(source, target, epsilon)
    expected -= regularized(source, source, epsilon) / 2
    expected -= regularized(target, target, epsilon) / 2
    value = double(
      functools.partial(
        adaptation.sinkhorn_divergence, scale="absolute", num_iterations=1000
      ),
      source,
      target,
      epsilon=epsilon,
    )
    agree(value, expected, 1e-8)


def transported(source, target, epsilon, iterations):
  """<P, C> of the plan of `deepjdot_loss`, for squared distances alone."""
  labels, logits = np.zeros(len(source), int), np.zeros((len(target), 1))
  form = functools.partial(
    adaptation.deepjdot_loss, class_weight=0.0, num_iterations=iterations
  )
  return double(
    form, source, target, labels, logits, feature_weight=1.0, epsilon=epsilon
  )


def test_plans_of_pot():
  ot = package("ot")
  source, target = samples()
  shares = np.full(20, 1 / 20), np.full(14, 1 / 14)
  costs = squared(source, target)
  entropic = ot.sinkhorn2(
    *shares, costs, 0.1 * costs.mean(), numItermax=10**4, stopThr=1e-14
  )
  agree(transported(source, target, 0.1, 1000), entropic, 1e-8)
  agree(transported(source, target, 1e-4, 5000), ot.emd2(*shares, costs), 1e-3)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_sliced_wasserstein_of_pot(power):
  ot = package("ot")
  source, target = samples()
  directions = np.random.default_rng(1).normal(size=(3, 8))
  directions /= np.linalg.norm(directions, axis=0)
  expected = ot.sliced_wasserstein_distance(
    source, target, projections=directions, p=power
  )
  value = double(
    lambda s, t, d: adaptation.sliced_wasserstein(
      None, s, t, directions=d, power=power
    ),
    source,
    target,
    directions,
  )
  agree(value, expected**power, 1e-12)


def test_linear_transport_of_pot():
  ot = package("ot")
  source, target = samples(60, 40)
  moments = [x.mean(0) for x in (source, target)] + [
    np.cov(x.T, bias=True) + 1e-6 * np.eye(3) for x in (source, target)
  ]
  matrix, shift = ot.gaussian.bures_wasserstein_mapping(*moments)
  fitted = double(
    lambda s, t: (
      transforms.linear_ot(s, t),
      transforms.linear_ot(s, t).apply(s),
    ),
    source,
    target,
  )
  agree(fitted[0].source_matrix, matrix, 1e-9)
  agree(fitted[1], source @ matrix + shift, 1e-9)
  model = ot.da.LinearTransport(reg=1e-6).fit(Xs=source, Xt=target)
  agree(fitted[1], model.transform(Xs=source), 1e-9)
