"""Float64 NumPy forms of the formulas, written from the papers.

They are sums as a person would write them, in NumPy's long double, so that
differences of logarithms keep more digits than what they are compared with.
"""

import numpy as np


def log_softmax(logits, temperature=1.0):
  z = np.asarray(logits, np.longdouble) / temperature
  z = z - z.max(-1, keepdims=True)
  with np.errstate(divide="ignore"):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def kl(p, q):
  """KL(p || q) of probabilities, with 0 log 0 = 0."""
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(-1)


def kl_of_logits(student, teacher, temperature=1.0):
  """KL(teacher || student), accurate for close logits too.

  With d the gap of the logits less its mean under p, the divergence is
  log E_p[exp d]; near 0 that is log1p of E_p[exp d - 1 - d], by its series.
  """
  p = np.exp(log_softmax(teacher, temperature))
  gap = np.asarray(student, np.longdouble) - np.asarray(teacher, np.longdouble)
  gap = gap / temperature
  gap = gap - (p * gap).sum(-1, keepdims=True)
  series = sum(gap**n / np.prod(np.arange(1.0, n + 1)) for n in range(2, 25))
  remainder = np.where(np.abs(gap) < 1, series, np.expm1(gap) - gap)
  return np.log1p((p * remainder).sum(-1))


def cross_entropy(logits, labels):
  log_q = log_softmax(logits)
  labels = np.asarray(labels)
  if labels.ndim == log_q.ndim:
    return -(labels * log_q).sum(-1)
  return -np.take_along_axis(log_q, labels[..., None], -1)[..., 0]
