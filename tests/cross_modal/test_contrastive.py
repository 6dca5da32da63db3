"""Contrastive losses of pairs: what each is made of."""

import jax
import numpy as np
import pytest

from kdjax.cross_modal import (
  affinity_mimicking_loss,
  clip_gradient_loss,
  clip_loss,
  clip_relation_loss,
)

RNG = np.random.default_rng(0)
IMAGE, TEXT, THEIR_IMAGE, THEIR_TEXT = RNG.normal(size=(4, 5, 3)).astype(
  np.float32
)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.slow
def test_affinity_mimicking_is_the_relation_loss_plus_an_entropy():
  scales = {"student_scale": 4.0, "teacher_scale": 3.0}

  def both(image):
    rest = (TEXT, THEIR_IMAGE, THEIR_TEXT)
    return (
      affinity_mimicking_loss(image, *rest, **scales),
      clip_relation_loss(image, *rest, **scales),
    )

  cosines = 3 * unit(THEIR_IMAGE) @ unit(THEIR_TEXT).T
  entropy = 0.0
  for logits in (cosines, cosines.T):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropy -= (p * np.log(p)).sum(1).mean() / 2
  affinity, relation = jax.jit(both)(IMAGE)
  np.testing.assert_allclose(affinity - relation, entropy, rtol=1e-4)
  slopes = jax.jit(jax.jacrev(both))(IMAGE)
  np.testing.assert_allclose(*slopes, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_gradient_loss_compares_gradients_of_the_contrastive_loss():
  """By differentiation of one direction's mean cross-entropy."""

  def one_way(anchors, candidates, scale):
    logits = scale * anchors @ candidates.T
    return -jax.nn.log_softmax(logits).diagonal().mean()

  def gradients(image, text, scale):
    both = jax.grad(one_way, (0, 1))
    return [*both(image, text, scale), *both(text, image, scale)]

  ours = gradients(unit(IMAGE), unit(TEXT), 4.0)
  theirs = gradients(unit(THEIR_IMAGE), unit(THEIR_TEXT), 3.0)
  expected = sum(
    np.square(a - b).mean() for a, b in zip(ours, theirs, strict=True)
  )
  got = clip_gradient_loss(
    IMAGE,
    TEXT,
    THEIR_IMAGE,
    THEIR_TEXT,
    student_scale=4.0,
    teacher_scale=3.0,
  )
  np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_a_learned_scale_gets_a_gradient_and_the_teachers_none():
  def loss(student_scale, teacher_scale):
    return clip_relation_loss(
      IMAGE,
      TEXT,
      THEIR_IMAGE,
      THEIR_TEXT,
      student_scale=student_scale,
      teacher_scale=teacher_scale,
    )

  ours, theirs = jax.jit(jax.grad(loss, (0, 1)))(4.0, 3.0)
  assert ours != 0
  assert theirs == 0


def test_unpaired_batches_are_an_error():
  with pytest.raises(ValueError, match=r"text has shape \(4, 3\); expected"):
    clip_loss(IMAGE, TEXT[:4])
  with pytest.raises(ValueError, match=r"teacher_text has shape \(4, 3\)"):
    clip_gradient_loss(
      IMAGE, TEXT, IMAGE, TEXT[:4], student_scale=1.0, teacher_scale=1.0
    )
