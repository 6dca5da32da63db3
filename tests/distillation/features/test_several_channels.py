"""Class activation maps, channel correlations and affinities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import affinity_loss, cat_loss, ickd_loss, kta_loss
from tests import laws

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 16, 3, 4, 5)).astype(np.float32)
SMALL = RNG.normal(size=(16, 2, 2, 5)).astype(np.float32)


def transposed(loss):
  """A channel's size does not matter: the laws' weights are for columns."""
  return lambda *maps: loss(*(jnp.swapaxes(x, 2, 3) for x in maps))


CASES = {
  "cat": laws.Case(transposed(cat_loss), (STUDENT, TEACHER)),
  "ickd": laws.Case(ickd_loss, (STUDENT, SMALL), coupled=True),
  "kta": laws.Case(kta_loss, (STUDENT, TEACHER), {"power": 2.5}),
  "affinity": laws.Case(transposed(affinity_loss), (STUDENT, TEACHER)),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


CAT, ICKD, KTA, AFFINITY = (
  jax.jit(cat_loss, static_argnames="normalize"),
  jax.jit(ickd_loss, static_argnames="scaling"),
  jax.jit(kta_loss),
  jax.jit(affinity_loss),
)


def flat(maps):
  """[batch, positions, channels] in float64."""
  maps = np.float64(maps)
  return maps.reshape(len(maps), -1, maps.shape[-1])


def over_norm(x, axis):
  return x / np.linalg.norm(x, axis=axis, keepdims=True)


def quarters(maps):
  """Pools a 3x4 map to 2x2: PyTorch's bins overlap in the middle row."""
  maps = np.float64(maps)
  return np.stack(
    [
      maps[:, rows, columns].mean((1, 2))
      for rows in (slice(0, 2), slice(1, 3))
      for columns in (slice(0, 2), slice(2, 4))
    ],
    1,
  )


@pytest.mark.parametrize("normalize", [True, False])
def test_class_attention_equals_the_paper(normalize):
  student, teacher = quarters(STUDENT), flat(SMALL)
  if normalize:
    student, teacher = over_norm(student, 1), over_norm(teacher, 1)
  np.testing.assert_allclose(
    CAT(STUDENT, SMALL, normalize=normalize),
    np.square(student - teacher).mean((1, 2)),
    rtol=1e-4,
  )


def test_channel_correlation_equals_both_codes():
  grams = []
  for maps in map(flat, (STUDENT, SMALL)):
    gram = np.stack([x.T @ x for x in maps])
    grams.append(over_norm(gram, 2))
  total = np.square(grams[0] - grams[1]).sum() / 5
  for scaling, count in (("imagenet", 16**2), ("cifar", 16)):
    np.testing.assert_allclose(
      ICKD(STUDENT, SMALL, scaling=scaling), total / count, rtol=1e-4
    )


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_adaptation_equals_the_paper_over_the_count(power):
  student, teacher = (
    x / (np.abs(x) ** power).sum((1, 2), keepdims=True) ** (1 / power)
    for x in map(flat, (STUDENT, TEACHER))
  )
  np.testing.assert_allclose(
    KTA(STUDENT, TEACHER, power=power),
    np.abs(student - teacher).mean((1, 2)),
    rtol=1e-4,
  )


def test_affinity_equals_the_matrices():
  """Dead channels and equal ones too."""
  student, teacher = STUDENT.copy(), TEACHER.copy()
  student[..., 0] = 0
  student[..., 1] = 3 * teacher[..., 1]
  matrices = []
  for maps in map(flat, (student, teacher)):
    norm = np.linalg.norm(maps, axis=1, keepdims=True)
    unit = maps / np.where(norm == 0, 1, norm)
    matrices.append(np.einsum("bpc,bqc->bcpq", unit, unit))
  norms = np.sqrt(np.square(matrices[0] - matrices[1]).sum((2, 3)))
  np.testing.assert_allclose(
    AFFINITY(student, teacher), norms.sum(1) / 12, rtol=1e-5
  )


def test_dead_channels_get_no_gradient():
  student = STUDENT.copy()
  student[..., 2] = 0
  for loss in (cat_loss, affinity_loss):
    gradient = jax.device_get(
      jax.jit(jax.grad(lambda x, f=loss: jnp.sum(f(x, TEACHER))))(student)
    )
    np.testing.assert_array_equal(gradient[..., 2], 0)
    assert np.all(np.isfinite(gradient))


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="resolution is 0"):
    laws.trace(cat_loss, STUDENT, TEACHER, resolution=0)
  with pytest.raises(ValueError, match="teacher_features has shape"):
    laws.trace(cat_loss, STUDENT, TEACHER[..., :4])
  with pytest.raises(ValueError, match="scaling is 'paper'"):
    laws.trace(ickd_loss, STUDENT, TEACHER, scaling="paper")
  with pytest.raises(ValueError, match="teacher_features has shape"):
    laws.trace(affinity_loss, STUDENT, SMALL)
