"""Residual networks: the published outputs, and BatchNorm over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets
from kdjax.nets import ResNet, WideResNet, set_batch_axis
from kdjax.nets.layers import batch_norm

# RepDistiller's models (commit b84f547) in PyTorch, float64, num_classes=3,
# filled and fed by `_noise` as below: logits of two images, then the mean of
# f0, f1, f2, f3 and of the embedding.
RECORDED = {
  ("resnet8x4", "eval"): (
    [[-0.176817, 1.112041, 0.137655], [-0.203948, 1.099707, 0.145077]],
    [0.162178, 0.096508, 0.070741, 0.044428, 0.044428],
  ),
  ("resnet8x4", "train"): (
    [[-4.106331, 1.330863, -2.426248], [-3.526924, 0.910219, -3.064049]],
    [0.384145, 0.582283, 0.576462, 0.563799, 0.563799],
  ),
  ("wrn-16-2", "eval"): (
    [[1.294352, -0.296659, -2.28061], [1.100484, -0.35789, -2.351572]],
    [0.008839, -0.109392, 0.077169, -0.004131, 0.402987],
  ),
  ("wrn-16-2", "train"): (
    [[-1.216515, -0.828098, 0.068009], [-1.434047, -1.202524, -0.232803]],
    [0.008839, -0.284874, -0.046106, 0.035647, 0.394477],
  ),
}


def _noise(shape):
  """Numbers in [-0.5, 0.5) from a hash of the position: the same anywhere."""
  bits = np.uint64(2**32)
  n = np.arange(1, np.prod(shape) + 1, dtype=np.uint64)
  n = n * np.uint64(2654435761) % bits
  n = (n ^ (n >> np.uint64(16))) * np.uint64(2246822519) % bits
  return ((n ^ (n >> np.uint64(13))) / 2**32 - 0.5).reshape(shape)


def _filled(name):
  def build():
    return nets.create(
      name, input_shape=(32, 32, 3), num_classes=3, rngs=nnx.Rngs(0)
    )

  graph, state = nnx.split(nnx.eval_shape(build))
  flat = nnx.to_flat_state(state)
  values = []
  for path, variable in flat:
    value = _noise(variable.shape)
    if variable.ndim == 4:
      *size, _, outputs = variable.shape
      value = value * np.sqrt(24 / np.prod([*size, outputs]))
    elif path[-1] in ("scale", "var"):
      value = 1 + value
    values.append(variable.replace(jnp.asarray(np.float32(value))))
  paths = [path for path, _ in flat]
  state = nnx.from_flat_state(zip(paths, values, strict=True))
  return nnx.merge(graph, state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8x4", "wrn-16-2"])
def test_outputs_are_the_published_ones(name):
  model = _filled(name)
  images = np.float32(4 * _noise((2, 32, 32, 3)))
  for mode in ("eval", "train"):  # the latter moves the statistics
    getattr(model, mode)()
    outputs = jax.device_get(_run(model, images))
    logits, means = RECORDED[name, mode]
    np.testing.assert_allclose(outputs.logits, logits, atol=3e-5)
    arrays = [*outputs.features.values(), outputs.embedding]
    np.testing.assert_allclose([a.mean() for a in arrays], means, atol=3e-6)


def _small(axis_name=None, key=0, dtype=jnp.float32):
  model = ResNet(
    8,
    3,
    input_shape=(8, 8, 1),
    channels=(4, 4, 6, 8),
    dtype=dtype,
    rngs=nnx.Rngs(key),
  )
  if axis_name:
    set_batch_axis(model, axis_name)
  return model


@nnx.jit
def _built():
  """The same in one program: built eagerly, every shape is compiled alone."""
  return _small()


@nnx.jit
def _run(model, images):
  return model(images)


def _data():
  rng = np.random.default_rng(0)
  # Devices see different distributions, so that local statistics are wrong.
  images = rng.normal(size=(16, 8, 8, 1)) + np.arange(16)[:, None, None, None]
  return images.astype(np.float32), rng.integers(3, size=16)


def _step(graph, axis_name, params, stats, images, labels):
  """Loss, gradients and new statistics, right on one device and on many."""

  def loss(params):
    model = nnx.merge(graph, params, stats, copy=True)
    scores = jax.nn.log_softmax(model(images).logits)
    value = -jnp.take_along_axis(scores, labels[:, None], 1).mean()
    if axis_name:
      value = jax.lax.pmean(value, axis_name)
    return value, nnx.state(model, nnx.BatchStat)

  (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
  if axis_name:
    gradients = jax.lax.pmean(gradients, axis_name)
  return value, stats, gradients


@pytest.fixture(scope="module")
def whole_batch():
  graph, params, stats = nnx.split(_built(), nnx.Param, nnx.BatchStat)
  step = jax.jit(functools.partial(_step, graph, None))
  return params, stats, step(params, stats, *_data())


def _vmap(step):
  mapped = jax.vmap(step, (None, None, 0, 0), None, axis_name="data")
  return jax.jit(
    lambda params, stats, *data: mapped(
      params, stats, *(x.reshape(8, 2, *x.shape[1:]) for x in data)
    )
  )


def _shard_map(step):
  mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
  specs = (jax.P(), jax.P(), jax.P("data"), jax.P("data"))
  mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=jax.P())
  return jax.jit(mapped)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [_vmap, _shard_map])
def test_batch_norm_over_an_axis_is_that_of_the_whole_batch(
  parallel, whole_batch
):
  params, stats, expected = whole_batch
  graph, _ = nnx.split(nnx.eval_shape(lambda: _small("data")))
  step = parallel(functools.partial(_step, graph, "data"))
  got = jax.tree.map(np.asarray, step(params, stats, *_data()))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    got,
    expected,
  )


@pytest.mark.slow
def test_students_of_many_seeds_are_one_vmapped_program():
  images, _ = _data()

  @jax.jit
  @jax.vmap
  def run(key):
    return _small(key=key)(images).logits

  keys = jax.random.split(jax.random.key(0), 3)
  logits = np.asarray(run(keys))
  assert logits.shape == (3, 16, 3)
  assert not np.allclose(logits[0], logits[1])
  backwards = run(keys[::-1])
  np.testing.assert_allclose(backwards, logits[::-1], rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32_and_keeps_its_statistics_there():
  images, _ = _data()
  full = _built()
  graph, _ = nnx.split(nnx.eval_shape(lambda: _small(dtype=jnp.bfloat16)))
  half = nnx.merge(graph, nnx.state(full), copy=True)
  expected, got = jax.device_get((_run(full, images), _run(half, images)))
  assert got.logits.dtype == jnp.float32
  largest = np.max(expected.embedding)
  np.testing.assert_allclose(
    got.embedding, expected.embedding, atol=0.05 * largest
  )
  assert half.stem.norm.var[...].dtype == jnp.float32


@pytest.mark.slow
def test_running_variance_is_the_biased_one():
  images, _ = _data()
  model = _built()
  activations = np.asarray(_run(model.stem.convolution, images))
  _run(model, images)
  np.testing.assert_allclose(
    model.stem.norm.var[...],
    0.9 + 0.1 * np.var(activations, axis=(0, 1, 2), ddof=0),
    rtol=1e-5,
  )


def test_evaluation_does_not_round_statistics_to_bfloat16():
  norm = batch_norm(4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  norm.mean[...] = jnp.asarray(np.full(4, 256.5, np.float32))
  norm.eval()
  centred = _run(norm, np.full((1, 1, 1, 4), 256.0, jnp.bfloat16))
  np.testing.assert_allclose(centred, np.full((1, 1, 1, 4), -0.5), atol=1e-2)


@nnx.jit
def _built_wide():
  return WideResNet(
    10, 1, 3, input_shape=(8, 8, 1), dropout=0.5, rngs=nnx.Rngs(0)
  )


@pytest.mark.slow
def test_wide_resnet_dropout_only_in_training():
  images, _ = _data()
  model = _built_wide()
  twice = [_run(model, images).logits for _ in range(2)]
  assert not np.array_equal(*twice)
  model.eval()
  twice = [_run(model, images).logits for _ in range(2)]
  np.testing.assert_array_equal(*twice)


@pytest.mark.slow
def test_normalizations_are_what_the_preactivations_have():
  """In training, a batch leaves with the bias and scale of its layer."""
  images, _ = _data()
  model = _built_wide()
  norms = [model.stages[1][0].norm1, model.stages[2][0].norm1, model.norm]
  for norm in norms:
    count = norm.bias.shape[0]
    norm.bias[...] = jnp.asarray(np.arange(count, dtype=np.float32) / count)
    norm.scale[...] = jnp.asarray(-np.asarray(norm.scale[...]))
  outputs = jax.device_get(_run(model, images))
  assert list(outputs.normalizations) == ["f1", "f2", "f3"]
  for key, (mean, deviation) in outputs.normalizations.items():
    before = outputs.preactivations[key]
    np.testing.assert_allclose(before.mean((0, 1, 2)), mean, atol=1e-4)
    np.testing.assert_allclose(before.std((0, 1, 2)), deviation, rtol=1e-2)
  # The next stage goes on from the same numbers; the running mean moves once.
  embedding = np.maximum(outputs.preactivations["f3"], 0).mean((1, 2))
  np.testing.assert_allclose(outputs.embedding, embedding, atol=1e-5)
  mean = 0.1 * outputs.features["f2"].mean((0, 1, 2))
  np.testing.assert_allclose(norms[1].mean[...], mean, rtol=1e-3, atol=1e-5)


def test_wrong_channels_name_the_argument():
  def run(inputs):
    return _small()(inputs)

  with pytest.raises(ValueError, match=r"inputs has shape \(2, 8, 8, 3\)"):
    jax.eval_shape(run, jnp.zeros((2, 8, 8, 3)))


def test_impossible_depth():
  options = {"input_shape": (8, 8, 1), "rngs": nnx.Rngs(0)}
  with pytest.raises(ValueError, match=r"depth is 9; expected 6 n \+ 2"):
    ResNet(9, 3, **options)
  with pytest.raises(ValueError, match=r"depth is 4; expected 6 n \+ 4"):
    WideResNet(4, 1, 3, **options)
