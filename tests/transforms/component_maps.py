"""An oracle of maps by components of two domains (TCA, JDA), and its data."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

DIMS, CLASSES = 5, 3


def samples(n_source=18, n_target=24, seed=0):
  rng = np.random.default_rng(seed)
  centers = 2 * rng.normal(size=(CLASSES, DIMS)) + 1
  labels = np.arange(n_source) % CLASSES
  source = centers[labels] + rng.normal(size=(n_source, DIMS)) / 2
  classes = np.arange(n_target) % CLASSES
  shift = rng.normal(size=DIMS)
  target = centers[classes] + shift + rng.normal(size=(n_target, DIMS)) / 2
  return source, target, labels


def unit(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def oracle(
  source, target, labels, *, components, ridge, kernel, gamma, normalize,
  scaling, iterations,
):  # fmt: skip
  """Returns the mapped rows of both domains and the pseudo-labels."""
  rows = np.concatenate([source, target])
  rows = unit(rows) if normalize else rows
  n_source, n = len(source), len(rows)
  squares = np.sum((rows[:, None] - rows[None]) ** 2, -1)
  gram = {
    "primal": rows.T,
    "linear": rows @ rows.T,
    "rbf": np.exp(-gamma * squares),
  }[kernel]
  centring = np.eye(n) - 1 / n
  marginal = np.repeat(
    [1 / n_source, -1 / len(target)], [n_source, len(target)]
  )
  pseudo = None
  for _ in range(iterations):
    matrix = np.outer(marginal, marginal)
    if labels is not None:
      matrix = matrix * CLASSES
    for c in range(CLASSES if pseudo is not None else 0):
      e = np.zeros(n)
      in_source, in_target = labels == c, pseudo == c
      e[:n_source][in_source] = 1 / max(in_source.sum(), 1)
      e[n_source:][in_target] = -1 / max(in_target.sum(), 1)
      matrix = matrix + np.outer(e, e)
    if normalize:
      matrix = matrix / np.linalg.norm(matrix)
    left = gram @ matrix @ gram.T + ridge * np.eye(len(gram))
    right = gram @ centring @ gram.T
    values, vectors = scipy.linalg.eigh((right + right.T) / 2, left)
    vectors = vectors[:, np.argsort(-values)[:components]]
    if scaling == "paper":
      vectors = vectors / np.sqrt(np.sum(vectors * (right @ vectors), 0))
    else:
      vectors = vectors / np.linalg.norm(vectors, axis=0)
    mapped = gram.T @ vectors
    mapped = unit(mapped) if normalize else mapped
    if labels is not None:
      gaps = np.sum(
        (mapped[n_source:, None] - mapped[None, :n_source]) ** 2, -1
      )
      pseudo = labels[gaps.argmin(1)]
  return mapped, pseudo


def fit_and_apply(form, *arguments, **hyper):
  """Compiled: the map that is fitted, and all rows mapped by it."""

  @jax.jit
  def run(source, target, *labels, **hyper):
    fitted = form(source, target, *labels, **hyper)
    return fitted, fitted.apply(jnp.concatenate([source, target]))

  return run(*arguments, **hyper)


def same_up_to_sign(got, want, atol):
  got = np.asarray(got)
  signs = np.sign(np.sum(got * want, 0))
  np.testing.assert_allclose(got, want * signs, atol=atol)


CASES = [
  ("primal", False, "paper"),
  ("primal", True, "unit"),
  ("linear", True, "paper"),
  ("rbf", False, "unit"),
  ("rbf", True, "paper"),
]
