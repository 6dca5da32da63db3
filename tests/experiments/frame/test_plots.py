"""Figures; `conftest` looks at each one."""

import numpy as np
import pytest

from experiments.frame import plots


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("methods", [1, 20])
def test_bars_keep_their_labels_on_the_canvas(tmp_path, seeds, methods):
  generator = np.random.default_rng(0)
  rates = {
    f"method {i}": generator.uniform(0.02, 1, seeds) for i in range(methods)
  }
  rates["a name that is rather long"] = np.ones(seeds)
  groups = {name: f"group {i % 5}" for i, name in enumerate(rates)}
  plots.accuracy_bars(
    tmp_path / "bars.png",
    rates,
    groups=groups,
    colours=dict(zip(sorted(set(groups.values())), plots.SERIES, strict=False)),
    oracles=rates,
    oracle_label="weight chosen with target labels",
    reference="a name that is rather long",
    title="A finding in so many words that they do not fit into a line of it",
  )
  assert (tmp_path / "bars.png").stat().st_size > 10_000
