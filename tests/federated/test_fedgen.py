"""FedGen's losses against the loops of the authors' code."""

import jax
import numpy as np

from kdjax.federated import fedgen_diversity_loss, fedgen_generator_loss

RNG = np.random.default_rng(0)


def test_clients_count_by_their_examples_of_the_class():
  logits = RNG.normal(size=(3, 6, 4))
  labels = np.arange(6) % 4
  counts = np.float64([[1, 2, 0, 3], [1, 0, 0, 1], [2, 2, 5, 0]])
  weights = counts / counts.sum(0)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = np.zeros(6)
  for k in range(3):
    expected -= weights[k, labels] * log_p[k, np.arange(6), labels]
  # What a client of weight 0 answers does not matter.
  logits[1, labels == 1] = np.inf
  got = jax.jit(fedgen_generator_loss)(
    *map(np.float32, (logits,)), labels, np.float32(weights)
  )
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_diversity_over_all_pairs():
  rows, noise = RNG.normal(size=(5, 3)), RNG.uniform(size=(5, 2))
  total = 0.0
  for i in range(5):
    for j in range(5):
      far = np.abs(rows[i] - rows[j]).mean()
      total += np.square(noise[i] - noise[j]).mean() * far
  got = fedgen_diversity_loss(np.float32(rows), np.float32(noise))
  np.testing.assert_allclose(got, np.exp(-total / 25), rtol=1e-5)
