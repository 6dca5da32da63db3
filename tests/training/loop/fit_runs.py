"""A small run for the tests of `fit`.

`python fit_runs.py DIRECTORY STEPS` trains in the directory and kills itself
when it would save step 6.
"""

import os
import signal
import sys

import jax
import numpy as np
import optax
from flax import nnx

from kdjax import metrics, training
from kdjax.training.loop._fit_folder import FitFolder

CLASSES, PIXELS, EXAMPLES, BATCH = 3, 6, 26, 8


class Network(nnx.Module):
  """A network with batch statistics, and dropout if wanted."""

  def __init__(self, width, seed, dropout=0.0):
    rngs = nnx.Rngs(seed)
    # A bias before BatchNorm has no gradient but rounding.
    self.layer = nnx.Linear(PIXELS, width, use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.head = nnx.Linear(width, CLASSES, rngs=rngs)

  def __call__(self, x):
    return self.head(self.dropout(nnx.relu(self.norm(self.layer(x)))))


def arrays(count=EXAMPLES, seed=0):
  generator = np.random.default_rng(seed)
  images = generator.normal(size=(count, PIXELS)).astype(np.float32)
  return {"image": images, "label": np.arange(count) % CLASSES}


def loss(student_logits, teacher_logits, labels, *, temperature, alpha):
  """Quick to compile, unlike one that is safe for any numbers."""
  soft = ((student_logits - teacher_logits) ** 2).sum(-1) / temperature
  hard = optax.softmax_cross_entropy_with_integer_labels(student_logits, labels)
  return alpha * soft + (1 - alpha) * hard


MEASURED = {
  "accuracy": (metrics.accuracy, ("logits", "labels")),
  "gap": lambda student_logits, teacher_logits: (
    (student_logits - teacher_logits) ** 2
  ).sum(-1),
}


def learner(student=None, **options):
  return training.distill(
    Network(4, 0) if student is None else student,
    Network(8, 1),
    loss,
    optax.sgd(0.05, 0.9),
    **({"temperature": 4.0, "alpha": 0.5, "metrics": MEASURED} | options),
  )


def fit(data, directory, steps, own=None, **options):
  return training.fit(
    learner(Network(4, 0, dropout=0.1)) if own is None else own,
    data,
    batch_size=BATCH,
    steps=steps,
    key=jax.random.key(0),
    workdir=directory,
    **({"evaluate_every": 4, "scan": False, "diagnostics": False} | options),
  )


def at_step(number, function):
  """Calls a function before a run saves a step."""
  save = FitFolder.save

  def save_or_not(folder, step, state, position):
    if step == number:
      function()
    save(folder, step, state, position)

  return save_or_not


if __name__ == "__main__":
  _, folder, total = sys.argv
  FitFolder.save = at_step(6, lambda: os.kill(os.getpid(), signal.SIGKILL))
  fit(arrays(), folder, int(total), checkpoint_every=2)
