"""Labels and numbers out of range are never a finite value without a word."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import (
  adaptation,
  distillation,
  finetuning,
  generalization,
  reweighting,
  selection,
  transforms,
)

RNG = np.random.default_rng(0)
ROWS, OTHERS = RNG.normal(size=(2, 6, 3)).astype(np.float32)
PROBABILITIES = np.asarray(jax.nn.softmax(ROWS))
LABELS = np.array([0, 1, 2, 0, 1, 2])
WHERE = np.array([True, True, True, True, True, False])
DOMAINS = np.stack([ROWS, OTHERS])
TOKENS = np.stack([ROWS, OTHERS], 1)
KEYS = finetuning.KeyQueue(jnp.ones((3, 2, 3)), jnp.zeros(3, jnp.int32))
# Of labels and a mask: the value of a batch, or a state.
OF_LABELS = {
  "leep": lambda y, w: selection.leep(PROBABILITIES, y, num_classes=3, where=w),
  "logme": lambda y, w: selection.logme(ROWS, y, num_classes=3, where=w),
  "h_score": lambda y, w: selection.h_score(ROWS, y, num_classes=3, where=w),
  "transrate": lambda y, w: selection.transrate(
    ROWS, y, num_classes=3, where=w
  ),
  "key_queue_update": lambda y, w: (
    finetuning.key_queue_update(KEYS, ROWS, y, where=w).keys
  ),
  "class_prototypes": lambda y, w: finetuning.class_prototypes(
    ROWS, y, num_classes=3, where=w
  ),
  "sskd_transformed_loss": lambda y, w: distillation.sskd_transformed_loss(
    TOKENS, TOKENS[::-1], y, where=w
  ),
  "fishr_penalty": lambda y, w: (
    generalization.fishr_penalty(
      DOMAINS,
      DOMAINS,
      jnp.stack([y, y]),
      decay=0.5,
      where=jnp.stack([w, w]),
    ).penalty
  ),
  "lmmd": lambda y, w: adaptation.lmmd(
    ROWS, OTHERS, y, PROBABILITIES, where_source=w
  ),
  "deepjdot_loss": lambda y, w: adaptation.deepjdot_loss(
    ROWS, OTHERS, y, ROWS, where_source=w
  ),
  "bbse_weights": lambda y, w: reweighting.bbse_weights(
    ROWS, OTHERS, y, where_source=w
  ),
  "target_shift_weights": lambda y, w: reweighting.target_shift_weights(
    ROWS, OTHERS, y, num_classes=3, where_source=w
  ),
  "joint_distribution_adaptation": lambda y, w: (
    transforms.joint_distribution_adaptation(
      ROWS, OTHERS, y, num_classes=3, num_components=2, where_source=w
    ).coefficients
  ),
}
QUICK = {
  "leep",
  "transrate",
  "key_queue_update",
  "sskd_transformed_loss",
  "fishr_penalty",
  "lmmd",
}


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow)
    for x in OF_LABELS
  ],
)
def test_a_label_out_of_range_is_nan_unless_masked(name):
  program = jax.jit(OF_LABELS[name])
  expected = program(LABELS, WHERE)
  assert np.all(np.isfinite(expected))
  for wrong in (-1, 3, 255):
    labels = LABELS.copy()
    labels[5] = wrong
    np.testing.assert_array_equal(program(labels, WHERE), expected)
    assert np.any(np.isnan(program(labels, np.ones(6, bool))))


@pytest.mark.parametrize(
  ("function", "arguments", "number"),
  [
    (distillation.standardize_logits, (ROWS,), "eps"),
    (adaptation.class_balance_loss, (ROWS,), "epsilon"),
    (adaptation.mdd_loss, (ROWS,) * 4, "epsilon"),
    (adaptation.mdd_loss, (ROWS,) * 4, "margin"),
    (adaptation.mdd_regression_loss, (ROWS,) * 4, "margin"),
    (adaptation.dst_loss, (ROWS,) * 4, "eta"),
    (adaptation.cdac_loss, (np.tile(ROWS, 2), ROWS, ROWS), "epsilon"),
    (adaptation.hafn_loss, (ROWS,), "radius"),
    (adaptation.spherical_kmeans, (ROWS, ROWS), "tolerance"),
    (adaptation.sliced_wasserstein, (jax.random.key(0), ROWS, ROWS), "power"),
  ],
)
def test_negative_numbers_are_refused(function, arguments, number):
  for wrong in (-1.0, np.nan):
    with pytest.raises(ValueError, match=f"{number} is .*expected a number"):
      function(*arguments, **{number: wrong})
