"""DistiLLM-2's skews of each text, by the gaps of earlier batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import language, methods
from kdjax.nets import Outputs

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, (2, 3, 4))
MASKS = np.arange(4) < np.array([[[4], [2], [3]], [[1], [4], [2]]])
ROLES = {
  name: Outputs(jnp.asarray(RNG.normal(size=(3, 4, 5)), jnp.float32), {}, None)
  for name in ("student", "teacher", "student_on_policy", "teacher_on_policy")
}


@pytest.mark.slow
def test_distillm2_adapts_the_skew_of_each_text():
  gaps = {"reference_gap": 0.2, "on_policy_reference_gap": 0.3}
  batch = {
    "label": jnp.asarray(LABELS[0]),
    "mask": jnp.asarray(MASKS[0]),
    "on_policy_label": jnp.asarray(LABELS[1]),
    "on_policy_mask": jnp.asarray(MASKS[1]),
  }

  def run(**options):
    objective = methods.create("distillm2", skew=0.9, **options).objective
    params, state = objective.init(KEY, ROLES)
    return jax.jit(objective.apply)(params, state, ROLES, batch, KEY)[0]

  logits = [np.asarray(x.logits) for x in ROLES.values()]
  skews = []
  for i, (student, teacher) in enumerate((logits[:2], logits[2:])):
    means = []
    for x in (student, teacher):
      probs = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
      own = np.take_along_axis(probs, LABELS[i][..., None], -1)[..., 0]
      logs = np.where(MASKS[i], np.log(own), 0).sum(-1) / MASKS[i].sum(-1)
      means.append(np.exp(logs))
    gap = (means[1] - means[0]) * (1 if i == 0 else -1)
    reference = tuple(gaps.values())[i]
    skews.append(np.clip(1 - 0.1 * reference / (gap + 1e-5), 0.01, 0.9))
  assert len({*np.concatenate(skews).round(3)}) > 2
  expected = language.contrastive_skew_loss(
    *logits, *MASKS, skew=skews[0], on_policy_skew=skews[1]
  )
  np.testing.assert_allclose(run(**gaps), expected.mean(), rtol=1e-5)
  plain = language.contrastive_skew_loss(*logits, *MASKS, skew=0.9)
  np.testing.assert_allclose(run(), plain.mean(), rtol=1e-5)
