"""MGD: what is masked teaches nothing."""

import numpy as np
import pytest

from kdjax.methods.distillation.features._mgd import _mgd
from tests.methods.distillation.networks import STUDENT, gradients, network


@pytest.mark.parametrize("mask", ["channel", "spatial"])
def test_masked_features_teach_nothing(mask):
  teacher = network(60, (4, 4, 3), (4, 4, 5))
  _, by_features = gradients(_mgd(mask_ratio=0.5, mask=mask), STUDENT, teacher)
  axes = (1, 2) if mask == "channel" else 3
  seen = np.any(by_features["f1"] != 0, axes)[:13].mean()
  assert 0.3 < seen < 0.7
  with pytest.raises(ValueError, match="mask is 'token'"):
    _mgd(mask="token")
