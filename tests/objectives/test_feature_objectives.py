"""Parts that methods learn beside the student, one property each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from kdjax.objectives.distillation._layer_attention import _similarities
from kdjax.objectives.distillation._projectors import Orthogonal

from kdjax.distillation import vid_loss
from kdjax.nets import Outputs
from kdjax.objectives import afd
from kdjax.objectives import cat
from kdjax.objectives import cc
from kdjax.objectives import crd_in_batch
from kdjax.objectives import itrd
from kdjax.objectives import mgd
from kdjax.objectives import pad_l2
from kdjax.objectives import semckd
from kdjax.objectives import simkd
from kdjax.objectives import srrl
from kdjax.objectives import vid
from kdjax.objectives import vitkd
from kdjax.objectives import vkd

KEY = jax.random.key(0)
ROWS = 16
BATCH = {"mask": jnp.asarray(np.arange(ROWS) < 13)}


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(seed, *shapes):
  """Outputs whose logits are a linear head's on the mean of the last map."""
  maps = [draw(seed + i, ROWS, *shape) for i, shape in enumerate(shapes)]
  features = {f"f{i}": x for i, x in enumerate(maps)}
  embedding = maps[-1].reshape(ROWS, -1, maps[-1].shape[-1]).mean(1)
  kernel, bias = draw(seed + 8, embedding.shape[1], 3), draw(seed + 9, 3)
  logits = embedding @ kernel + bias[None]
  return jax.tree.map(
    jnp.asarray, Outputs(logits, features, embedding, classifier=(kernel, bias))
  )


STUDENT = network(0, (4, 4, 3), (4, 4, 5))
TEACHER = network(10, (4, 4, 3), (2, 2, 6))
VIT = network(20, (10, 4), (10, 4), (10, 4))
WIDE_VIT = network(30, (11, 6), (11, 6), (11, 6))


def run(objective, student, teacher, changed=None):
  """The loss, with other parameters than the initial ones if given."""

  @jax.jit
  def program(student, teacher, changed):
    params, state = objective.init(KEY, student, teacher)
    params = params if changed is None else changed
    return objective.apply(params, state, student, teacher, BATCH, KEY)[0]

  return program(student, teacher, changed)


def gradients(objective, student, teacher):
  """By the parameters and by the student's features."""

  @jax.jit
  def program(student, teacher):
    params, state = objective.init(KEY, student, teacher)

    def loss(params, features):
      moved = student._replace(features=features)
      return objective.apply(params, state, moved, teacher, BATCH, KEY)[0]

    return jax.grad(loss, (0, 1))(params, student.features)

  return program(student, teacher)


def test_vid_starts_at_the_variance_and_trains_it():
  objective = vid(init_variance=3.0)
  params, _ = jax.jit(lambda: objective.init(KEY, STUDENT, TEACHER))()
  rho = np.asarray(params[0]["rho"])
  np.testing.assert_allclose(np.log1p(np.exp(rho)) + 1e-5, 3.0, rtol=1e-6)
  zeros = jax.tree.map(np.zeros_like, params) | {}
  zeros[0]["rho"] = rho
  teacher = np.asarray(TEACHER.features["f1"])
  variance = np.full(6, 3, np.float32)
  expected = jax.jit(vid_loss)(np.zeros_like(teacher), variance, teacher)
  np.testing.assert_allclose(
    run(objective, STUDENT, TEACHER, zeros), expected[:13].mean(), rtol=1e-5
  )
  by_params, _ = gradients(objective, STUDENT, TEACHER)
  assert np.all(by_params[0]["rho"] != 0)
  with pytest.raises(ValueError, match="init_variance is 0"):
    vid(init_variance=0.0)


def test_class_activation_maps_average_to_the_logits():
  """As those of a 1x1 convolution before the pooling do."""
  centred = [
    np.asarray(x.logits) - np.asarray(x.classifier[1])
    for x in (STUDENT, TEACHER)
  ]
  loss = run(cat(resolution=1, normalize=False), STUDENT, TEACHER)
  expected = np.square(centred[0] - centred[1]).mean(1)
  np.testing.assert_allclose(loss, expected[:13].mean(), rtol=1e-5)


def test_simkd_answers_with_the_teachers_classifier():
  objective = simkd()
  params, state = jax.jit(lambda: objective.init(KEY, STUDENT, TEACHER))()
  predict = jax.jit(objective.predict)
  logits = predict(params, state, STUDENT, TEACHER)
  assert logits.shape == (ROWS, 3)
  kernel, bias = TEACHER.classifier
  other = TEACHER._replace(classifier=(2 * kernel, bias + 1))
  np.testing.assert_allclose(
    predict(params, state, STUDENT, other),
    2 * (logits - bias[None]) + bias[None] + 1,
    rtol=1e-4,
    atol=1e-4,
  )


def test_heads_refuse_networks_they_do_not_fit():
  with pytest.raises(ValueError, match="teacher has tokens of shape"):
    simkd().init(KEY, STUDENT, VIT)
  headless = TEACHER._replace(classifier=None)
  with pytest.raises(ValueError, match="teacher has no classifier"):
    run(srrl(), STUDENT, headless)
  narrow = TEACHER._replace(classifier=STUDENT.classifier)
  with pytest.raises(ValueError, match="classifier of 5 inputs"):
    run(cat(), STUDENT, narrow)


@pytest.mark.parametrize("sizes", [(3, 7), (7, 3), (4, 4)])
def test_the_projection_is_orthogonal(sizes):
  matrix = jax.jit(lambda: Orthogonal(*sizes, nnx.Rngs(0)).matrix())()
  matrix = np.asarray(matrix)
  assert matrix.shape == sizes
  gram = matrix @ matrix.T if sizes[0] <= sizes[1] else matrix.T @ matrix
  np.testing.assert_allclose(gram, np.eye(min(sizes)), atol=1e-6)


def test_vkd_takes_tokens_and_maps():
  by_params, by_features = gradients(vkd(), VIT, TEACHER)
  assert np.any(by_params["kernel"] != 0)
  assert np.any(by_features["f2"] != 0)


@pytest.mark.parametrize("mask", ["channel", "spatial"])
def test_masked_features_teach_nothing(mask):
  teacher = network(60, (4, 4, 3), (4, 4, 5))
  _, by_features = gradients(mgd(mask_ratio=0.5, mask=mask), STUDENT, teacher)
  axes = (1, 2) if mask == "channel" else 3
  seen = np.any(by_features["f1"] != 0, axes)[:13].mean()
  assert 0.3 < seen < 0.7
  with pytest.raises(ValueError, match="mask is 'token'"):
    mgd(mask="token")


@pytest.mark.parametrize(
  ("method", "pair"), [(mgd, (STUDENT, TEACHER)), (vitkd, (VIT, WIDE_VIT))]
)
def test_devices_draw_the_masks_of_one(method, pair):
  objective = method()
  params, state = jax.jit(lambda: objective.init(KEY, *pair))()

  def step(student, teacher, batch, *, axis_name=None):
    return method(axis_name=axis_name).apply(
      params, state, student, teacher, batch, KEY
    )[0]

  def sharding(tree):
    return jax.tree.map(
      lambda x: P("batch") if x.shape[:1] == (ROWS,) else P(), tree
    )

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    functools.partial(step, axis_name="batch"),
    mesh=mesh,
    in_specs=(*map(sharding, pair), P("batch")),
    out_specs=P(),
  )
  np.testing.assert_allclose(
    jax.jit(sharded)(*pair, BATCH), jax.jit(step)(*pair, BATCH), rtol=1e-5
  )


def test_vitkd_mimics_low_layers_and_generates_the_last():
  """The class token, and a second one of the teacher, are left out."""
  by_params, by_features = gradients(vitkd(), VIT, WIDE_VIT)
  assert all(np.any(x != 0) for x in jax.tree.leaves(by_params))
  for gradient in by_features.values():
    np.testing.assert_array_equal(gradient[:, 0], 0)
    assert np.any(gradient[:, 1:] != 0)
  whole = run(vitkd(beta=0.0), WIDE_VIT, WIDE_VIT)
  np.testing.assert_array_equal(whole, 0)
  with pytest.raises(ValueError, match="expected tokens"):
    vitkd().init(KEY, STUDENT, TEACHER)
  with pytest.raises(ValueError, match="student has 9 patches and teacher 4"):
    vitkd().init(KEY, VIT, network(40, (4, 6), (4, 6)))


def test_vitkd_projects_each_layer_from_its_own_width():
  student = network(70, (10, 3), (10, 4), (10, 6))
  params, _ = jax.eval_shape(lambda: vitkd().init(KEY, student, WIDE_VIT))
  assert params["projectors"][0]["kernel"].shape == (3, 6)
  assert params["projectors"][2]["kernel"].shape == (6, 6)
  assert np.isfinite(run(vitkd(), student, WIDE_VIT))


def test_semckd_takes_any_batch_in_any_order():
  maps, mask = STUDENT.features["f1"], BATCH["mask"]
  describe = jax.jit(_similarities, static_argnums=(1, 3))
  quantiles = describe(maps, 8, mask, None)
  order = np.random.default_rng(0).permutation(ROWS)
  np.testing.assert_allclose(
    describe(maps[order], 8, mask[order], None),
    quantiles[order],
    rtol=1e-4,
    atol=1e-4,
  )
  rows = np.float64(maps).reshape(ROWS, -1)[:13]
  np.testing.assert_allclose(
    quantiles[:13],
    np.quantile(rows @ rows.T, np.linspace(0, 1, 8), axis=1).T,
    rtol=1e-4,
    atol=1e-4,
  )
  np.testing.assert_allclose(
    describe(maps[:13], 8, mask[:13], None),
    quantiles[:13],
    rtol=1e-4,
    atol=1e-4,
  )
  # Of nothing that counts there are finite ones, whose gradient is 0.
  nothing = describe(maps, 8, np.zeros(ROWS, bool), None)
  np.testing.assert_array_equal(nothing, 0)


@pytest.mark.parametrize("method", [semckd, cc, crd_in_batch, itrd, pad_l2])
def test_parts_start_as_pytorchs_do(method):
  """Published weights suit losses that begin as large as the authors'."""
  params, _ = jax.jit(lambda: method().init(KEY, STUDENT, TEACHER))()
  kernels = [np.asarray(x) for x in jax.tree.leaves(params) if x.ndim > 1]
  assert kernels
  for kernel in kernels:
    bound = np.prod(kernel.shape[:-1]) ** -0.5
    assert 0.5 * bound < np.abs(kernel).max() <= bound


def test_semckd_trains_all_its_parts():
  teacher = network(50, (4, 4, 3), (2, 2, 6), (2, 2, 4))
  by_params, by_features = gradients(semckd(samples=8), STUDENT, teacher)
  assert all(np.any(x != 0) for x in jax.tree.leaves(by_params))
  np.testing.assert_array_equal(by_features["f0"], 0)
  assert np.any(by_features["f1"] != 0)


def test_afd_of_one_layer_is_attention_transfer():
  """With nothing to choose from, the weight is 1."""
  energies = []
  student = np.float64(STUDENT.features["f1"]) ** 2
  pooled = student.mean(3).reshape(ROWS, 2, 2, 2, 2).mean((2, 4))
  for energy in (pooled, (np.float64(TEACHER.features["f1"]) ** 2).mean(3)):
    flat = energy.reshape(ROWS, -1)
    energies.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
  expected = np.square(energies[0] - energies[1]).mean(1)[:13].mean()
  np.testing.assert_allclose(
    run(afd(width=8), STUDENT, TEACHER), expected, rtol=1e-4
  )
