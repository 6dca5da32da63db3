"""CAT-KD: class activation maps without surgery."""

import numpy as np

from kdjax.methods.distillation.features._cat import _cat
from tests.methods.distillation.networks import STUDENT, TEACHER, run


def test_class_activation_maps_average_to_the_logits():
  """As those of a 1x1 convolution before the pooling do."""
  centered = [
    np.asarray(x.logits) - np.asarray(x.classifier[1])
    for x in (STUDENT, TEACHER)
  ]
  loss = run(_cat(resolution=1, normalize=False), STUDENT, TEACHER)
  expected = np.square(centered[0] - centered[1]).mean(1)
  np.testing.assert_allclose(loss, expected[:13].mean(), rtol=1e-5)
