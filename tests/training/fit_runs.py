"""A small run for the tests of `fit`, which may also be killed.

`python fit_runs.py DIRECTORY STEPS MODE` trains in the directory. It sends
itself the signal that MODE names (`SIGKILL`, `SIGTERM`, `SIGINT`) as it reads
the batch of step 7; `none` sends none.
"""

import os
import signal
import sys

import jax
import numpy as np
import optax
from flax import nnx

from kdjax import training
from kdjax.distillation import kd_loss

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


def learner(student=None, **options):
  return training.distill(
    Network(4, 0) if student is None else student,
    Network(8, 1),
    kd_loss,
    optax.adam(1e-2),
    **({"temperature": 4.0, "alpha": 0.5} | options),
  )


class Treacherous:
  """A source that sends a signal when an example is read so many times."""

  def __init__(self, number, reads):
    self._arrays = arrays()
    self._number = number
    self._left = reads

  def __len__(self):
    return EXAMPLES

  def __getitem__(self, index):
    self._left -= 1
    if not self._left:
      os.kill(os.getpid(), self._number)
    return {k: v[index] for k, v in self._arrays.items()}


def fit(data, directory, steps, **options):
  return training.fit(
    learner(Network(4, 0, dropout=0.1)),
    data,
    batch_size=BATCH,
    steps=steps,
    key=jax.random.key(0),
    **({"workdir": directory, "evaluate_every": 4, "scan": False} | options),
  )


if __name__ == "__main__":
  _, folder, total, name = sys.argv
  source = arrays()
  if name != "none":
    # One read more tells the shapes, and a batch has two.
    source = Treacherous(getattr(signal, name), 1 + BATCH + 7 * BATCH)
  fit(source, folder, int(total), checkpoint_every=2)
