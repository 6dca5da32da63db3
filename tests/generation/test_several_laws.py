"""The laws of a loss, asked of the losses of diffusion."""

import numpy as np
import pytest

from kdjax import generation
from tests import laws

RNG = np.random.default_rng(0)
STUDENT, TARGET = RNG.normal(size=(2, 16, 4)).astype(np.float32)
LEVELS = RNG.normal(size=16).astype(np.float32)
SIGMAS = RNG.uniform(0.5, 2, 16).astype(np.float32)
CASES = {
  "diffusion": laws.Case(generation.diffusion_loss, (STUDENT, TARGET, LEVELS)),
  "consistency": laws.Case(
    generation.consistency_loss, (STUDENT, TARGET, SIGMAS)
  ),
}


@pytest.mark.parametrize(
  ("name", "law"), laws.pairs(CASES, quick={"diffusion"})
)
def test_law(name, law):
  law(CASES[name])
