"""Values of skada, from the package itself.

skada is no dependency: the tests run where it is installed. Its KLIEP, CDD,
MDD and default DANN are known to be wrong, and its TCA is right for a
vanishing mu only: they are no oracles.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from kdjax import adaptation, reweighting, selection, transforms
from tests.packages import agree, double, package, samples, squared

# What the packages warn of is not kdjax's to repair.
pytestmark = [
  pytest.mark.packages,
  pytest.mark.filterwarnings("ignore"),
]


def both_domains(source, target):
  """Rows and signed domains, as skada takes them."""
  domains = np.repeat([1, -2], [len(source), len(target)])
  return np.concatenate([source, target]), domains


def of_torch(loss, *arrays):
  """Value and gradient by the first array, in float32."""
  torch = package("torch")
  tensors = [torch.tensor(x) for x in arrays]
  tensors[0].requires_grad_()
  value = loss(*tensors)
  value.backward()
  return value.item(), tensors[0].grad.numpy()


def value_and_gradient(loss, *arrays):
  return jax.device_get(jax.jit(jax.value_and_grad(loss))(*arrays))


def test_losses_of_skada():
  losses = package("skada.deep.losses")
  pair = [np.float32(x) for x in samples()]

  def laplacian(**options):
    kernel = adaptation.Laplacian(**options)
    return functools.partial(adaptation.mmd, kernel=kernel)

  widths = [0.5, 1.0, 2.0]
  for ours, theirs in (
    (adaptation.coral_loss, losses.deepcoral_loss),
    (
      laplacian(bandwidths=widths),
      functools.partial(losses.dan_loss, sigmas=widths),
    ),
  ):
    value, gradient = of_torch(theirs, *pair)
    got = value_and_gradient(ours, *pair)
    agree(got[0], value, 1e-5)
    agree(got[1], gradient, 1e-4)
  # It has a gradient through the pair of rows whose distance is the median.
  factors = 2.0 ** np.arange(-8, 8.5, 0.5)
  mmd = laplacian(bandwidth_rule="median", bandwidth_factors=factors)
  agree(jax.jit(mmd)(*pair), of_torch(losses.dan_loss, *pair)[0], 1e-5)
  # Its entropy has 1e-7 in the logarithm, TLlib's and ours 1e-5; it has no
  # stop-gradient on the weights.
  logits = 3 * pair[0]
  for temperature in (1.0, 2.5):
    value, _ = of_torch(
      functools.partial(losses.mcc_loss, T=temperature), logits
    )
    got, _ = value_and_gradient(
      functools.partial(adaptation.mcc_loss, temperature=temperature), logits
    )
    agree(got, value, 1e-4)


def test_deepjdot_of_skada():
  """With POT's plan, value and gradient of the exact cost."""
  ot, losses = package("ot"), package("skada.deep.losses")
  source, target = (np.float32(x) for x in samples(12, 12))
  rng = np.random.default_rng(1)
  labels, logits = rng.integers(0, 3, 12), np.float32(rng.normal(size=(12, 3)))

  def theirs(source, target, labels, logits):
    return losses.deepjdot_loss(labels, logits, source, target, 0.7, 0.4)

  expected = of_torch(theirs, source, target, labels, logits)
  costs = 0.7 * squared(source, target)
  costs -= 0.4 * scipy.special.log_softmax(logits, 1)[:, labels].T
  plan = np.float32(ot.emd([], [], np.float64(costs)))
  got = value_and_gradient(
    lambda *x: adaptation.deepjdot_loss(
      *x[:4], plan=x[4], feature_weight=0.7, class_weight=0.4
    ),
    source, target, np.int32(labels), logits, plan,
  )  # fmt: skip
  agree(got[0], expected[0], 1e-5)
  agree(got[1], expected[1], 1e-5)


def test_maps_of_skada():
  skada = package("skada")
  source, target = samples(30, 20, 4)
  rows, domains = both_domains(source, target)
  adapter = skada.CORALAdapter(reg=None)
  expected = adapter.fit_transform(rows, sample_domain=domains)[:30]
  fitted = double(
    functools.partial(transforms.coral_transform, center=True),
    source,
    target,
    ridge=1e-13,
  )
  # Its covariances are over n, and its target is centred.
  scale = np.sqrt(29 / 30 * 20 / 19)
  moved = (source - fitted.source_center) @ fitted.source_matrix
  agree(moved, scale * expected, 1e-8)

  adapter = skada.SubspaceAlignmentAdapter(n_components=2)
  expected = adapter.fit_transform(rows, sample_domain=domains)
  maps = double(
    lambda s, t: [
      transforms.subspace_alignment(s, t, num_components=2).apply(
        x, domain=name
      )
      for x, name in ((s, "source"), (t, "target"))
    ],
    source,
    target,
  )
  got = np.concatenate(maps)
  agree(got * np.sign(np.sum(got * expected, 0)), expected, 1e-9)


def test_components_of_skada():
  """Equal where its problem is symmetric; better by the paper's else."""
  skada = package("skada")
  source, target = samples(15, 11)
  rows, domains = both_domains(source, target)
  n = len(rows)
  kernel = np.exp(-squared(rows, rows) / 3)
  e = np.repeat([1 / 15, -1 / 11], [15, 11])

  def components(mu):
    adapter = skada.TransferComponentAnalysisAdapter(n_components=2, mu=mu)
    adapter.fit(rows, sample_domain=domains)
    columns = double(
      lambda s, t: (
        transforms.tca(
          s, t, kernel="rbf", num_components=2, ridge=1 / mu
        ).coefficients
      ),
      source,
      target,
    )
    return columns, adapter.eigvects_

  def score(columns, mu):
    shift = np.outer(kernel @ e, kernel @ e) + np.eye(n) / mu
    spread = kernel @ (np.eye(n) - 1 / n) @ kernel
    below, above = (columns.T @ m @ columns for m in (shift, spread))
    return np.trace(np.linalg.solve(below, above))

  ours, theirs = (np.linalg.qr(x)[0] for x in components(1e-9))
  agree(ours @ ours.T, theirs @ theirs.T, 1e-6)
  ours, theirs = components(10.0)
  assert score(ours, 10.0) > 1.001 * score(theirs, 10.0)


def test_weights_of_skada():
  skada = package("skada")
  source, target = samples(25, 18)
  rows, domains = both_domains(source, target)

  def weights(adapter, labels=None):
    adapter.fit(rows, labels, sample_domain=domains)
    found = adapter.compute_weights(rows, labels, sample_domain=domains)[:25]
    return found / found.mean()

  expected = weights(
    skada.KMMReweightAdapter(gamma=0.5, solver="scipy", tol=1e-14)
  )
  got = double(reweighting.kmm_weights, source, target, gamma=0.5)
  agree(got, expected, 1e-3)

  # Equal sizes: it counts all rows alike. It has p(source) / p(target).
  source, target = samples(20, 20)
  rows, domains = both_domains(source, target)
  adapter = skada.DiscriminatorReweightAdapter()
  adapter.fit(rows, sample_domain=domains)
  inverse = adapter.compute_weights(rows, sample_domain=domains)[:20]
  got = double(reweighting.discriminator_weights, source, target)
  agree(got, (1 / inverse) / np.mean(1 / inverse), 1e-3)

  labels = np.arange(20) % 2
  adapter = skada.MMDTarSReweightAdapter(gamma=0.5, tol=1e-14)
  masked = np.concatenate([labels, np.full(20, -1)])
  adapter.fit(rows, masked, sample_domain=domains)
  expected = adapter.compute_weights(rows, masked, sample_domain=domains)[:20]
  got = double(
    lambda s, t, y: reweighting.target_shift_weights(
      s, t, y, num_classes=2, gamma=0.5
    ),
    source,
    target,
    labels,
  )
  agree(got, expected / expected.mean(), 1e-4)


class Model:
  """A linear classifier with the methods that skada's scorers ask for."""

  def __init__(self, matrix):
    self.matrix = matrix

  def predict_log_proba(self, rows, sample_domain=None, **options):
    return scipy.special.log_softmax(rows @ self.matrix, 1)

  def predict_proba(self, rows, sample_domain=None, **options):
    return np.exp(self.predict_log_proba(rows))


def test_scores_of_predictions_of_skada():
  metrics = package("skada.metrics")
  source, target = samples(20, 24)
  rows, domains = both_domains(source, target)
  labels = np.repeat([0, -1], [20, 24])
  model = Model(2 * np.random.default_rng(2).normal(size=(3, 4)))

  def score(scorer):
    return scorer(model, rows, labels, sample_domain=domains)

  logits = target @ model.matrix
  # A mean over examples and classes there.
  expected = 4 * score(metrics.PredictionEntropyScorer())
  agree(double(selection.entropy_score, logits), expected, 1e-12)
  for temperature in (0.05, 0.2):
    # Its weight of an example on itself is e^(-2 / T) of a neighbour's.
    got = double(
      lambda z, t: selection.snd_score(jax.nn.softmax(z), temperature=t),
      logits,
      temperature,
    )
    expected = score(metrics.SoftNeighborhoodDensity(T=temperature))
    agree(got, expected, 1e-12 if temperature == 0.05 else 1e-4)


def test_scores_of_the_source_of_skada():
  skada, metrics = package("skada"), package("skada.metrics")
  linear_model = package("sklearn.linear_model")
  model_selection = package("sklearn.model_selection")
  source, target = samples(60, 40)
  rows, domains = both_domains(source, target)
  labels = (source @ np.array([1.0, -1.0, 0.5]) > 0).astype(int)
  masked = np.concatenate([labels, np.full(40, -1)])
  model = skada.make_da_pipeline(
    linear_model.LogisticRegression().set_score_request(sample_weight=True)
  )
  model.fit(rows, masked, sample_domain=domains)
  wrong = model.predict(source, sample_domain=domains[:60]) != labels
  wrong ^= np.arange(60) % 7 == 0  # or a separable sample has no error
  labels = labels ^ (np.arange(60) % 7 == 0)
  masked = np.concatenate([labels, np.full(40, -1)])

  scorer = metrics.ImportanceWeightedScorer()
  expected = scorer(model, rows, masked, sample_domain=domains)
  densities = [
    package("sklearn.neighbors").KernelDensity().fit(x).score_samples(source)
    for x in (source, target)
  ]
  weights = np.exp(densities[1] - densities[0])
  got = double(
    functools.partial(selection.importance_weighted_score, normalize=True),
    1.0 * wrong,
    weights,
  )
  agree(1 + got, expected, 1e-12)  # an accuracy there

  # Weights are [rows, 1] there: its default losses, [rows], would make
  # [rows, rows] of them.
  scorer = metrics.DeepEmbeddedValidation(
    random_state=3, loss_func=lambda y, p: -np.log(p[range(len(y)), y])[:, None]
  )
  expected = scorer(model, rows, masked, sample_domain=domains)
  train, held_out = model_selection.train_test_split(
    np.arange(60), test_size=0.33, random_state=3
  )
  classifier = linear_model.LogisticRegression().fit(
    np.concatenate([source[train], target]),
    np.arange(len(train) + 40) < len(train),
  )
  odds = np.exp(-classifier.decision_function(source[held_out]))
  probabilities = model.predict_proba(
    source[held_out], sample_domain=domains[held_out], allow_source=True
  )
  losses = -np.log(probabilities[np.arange(len(held_out)), labels[held_out]])
  weights = odds * len(train) / 40
  agree(double(selection.dev_score, losses, weights), expected, 1e-10)


def test_reverse_validation_of_skada():
  """With the nearest class mean as the model, on even classes."""
  skada, metrics = package("skada"), package("skada.metrics")
  neighbors = package("sklearn.neighbors")
  source, target = samples(40, 30)
  labels = np.arange(40) % 2
  source = source + 0.8 * labels[:, None]
  target = target + 0.8 * (np.arange(30) % 2)[:, None]
  rows, domains = both_domains(source, target)
  masked = np.concatenate([labels, np.full(30, -1)])
  model = skada.make_da_pipeline(neighbors.NearestCentroid())
  model.fit(rows, masked, sample_domain=domains)
  scorer = metrics.CircularValidation()
  expected = scorer(model, rows, masked, sample_domain=domains)

  def fit(means, inputs, labels, mask, key):
    members = jax.nn.one_hot(labels, 2) * mask[:, None]
    return (members.T @ inputs) / jnp.sum(members, 0)[:, None]

  def predict(means, inputs):
    return -jnp.sum(jnp.square(inputs[:, None] - means[None]), -1)

  def run(source, target, labels):
    everything = jnp.ones(labels.shape, bool)
    means = fit(None, source, labels, everything, None)
    return selection.reverse_validation(
      jax.random.key(0), means, source, labels, target, fit, predict
    )

  got = double(run, source, target, labels)
  assert 0.5 < expected < 1
  agree(got, expected, 1e-12)
