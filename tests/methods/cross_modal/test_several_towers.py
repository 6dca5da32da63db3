"""Objectives of towers: AFD by hand, and maps to the teacher's width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import methods
from kdjax.methods.cross_modal import _clip
from kdjax.nets import Outputs

RNG = np.random.default_rng(2)
WIDTHS = {"student_image": 3, "student_text": 3}
WIDTHS |= {"teacher_image": 5, "teacher_text": 5}


def outputs_of(size=6):
  rows = {k: RNG.normal(size=(size, n)) for k, n in WIDTHS.items()}
  return {
    k: Outputs(jnp.zeros((size, 2)), {}, jnp.asarray(x, jnp.float32))
    for k, x in rows.items()
  }


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def matching(scale, a, b):
  """CLIP's mean of both cross-entropies, in float64."""
  logits = scale * unit(a) @ unit(b).T
  return -np.mean(
    [
      (x - np.log(np.exp(x).sum(1, keepdims=True))).diagonal()
      for x in (logits, logits.T)
    ]
  )


def test_a_scale_at_its_bound_can_fall_again():
  outputs, batch = outputs_of(), {"mask": jnp.ones(6, bool)}
  objective = methods.create("clip").objective
  params, state = objective.init(jax.random.key(0), outputs)

  def loss(log_scale):
    moved = jax.tree.map(lambda _: log_scale, params)
    return objective.apply(moved, state, outputs, batch, jax.random.key(1))[0]

  # Random pairs do not match: a smaller scale is better.
  value, slope = jax.value_and_grad(loss)(jnp.float32(5.0))
  images, texts = (
    np.asarray(outputs[f"student_{k}"].embedding) for k in ("image", "text")
  )
  np.testing.assert_allclose(value, matching(100.0, images, texts), rtol=1e-4)
  assert slope > 0


@pytest.mark.slow
def test_afd_is_clip_of_fused_embeddings():
  """As `KDClipLoss` of CLIP-KD's code, of the student's own embedding."""
  objective, outputs = _clip._clip_kd(task=0.0, augmented=1.0), outputs_of()
  params, state = objective.init(jax.random.key(0), outputs)
  batch = {"mask": jnp.ones(6, bool)}
  got, _, _ = objective.apply(params, state, outputs, batch, jax.random.key(1))
  fused = []
  for name in ("image", "text"):
    both = [
      unit(np.asarray(outputs[f"{side}_{name}"].embedding, np.float64))
      for side in ("student", "teacher")
    ]
    layer = jax.tree.map(np.asarray, params[f"{name}_fusion"])
    fused.append(np.concatenate(both, 1) @ layer["kernel"] + layer["bias"])
  assert fused[0].shape == (6, 3)
  expected = matching(np.log(1 / 0.07), *fused)
  np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.slow
def test_only_afd_has_maps_that_fuse():
  outputs = outputs_of()
  names = {
    name: set(
      methods.create(name).objective.init(jax.random.key(0), outputs)[0][name]
    )
    for name in ("clip_kd", "clip_afd")
  }
  fusion = {"fusion", "image_fusion", "text_fusion"}
  assert names["clip_afd"] - names["clip_kd"] == fusion


def test_the_joint_objective_maps_other_widths_only():
  def student(width):
    return Outputs(jnp.zeros((4, 2)), {}, jnp.ones((4, width)))

  def init(width):
    objective = methods.create("cross_modal_joint").objective
    outputs = {"student": student(width), "teacher": student(5)}
    return objective.init(jax.random.key(0), outputs)[0]["cross_modal_joint"]

  assert not init(5)
  assert init(3)["map"]["kernel"].shape == (3, 5)
