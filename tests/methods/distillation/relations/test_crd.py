"""CRD's banks, normalizers and negatives against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.methods.distillation.relations._crd import _crd, _draw
from kdjax.nets import Outputs

EXAMPLES, BATCH, NEGATIVES, DIM = 40, 16, 9, 8
RNG = np.random.default_rng(0)


def outputs(x):
  return Outputs(np.zeros((len(x), 3), np.float32), {}, x)


def pair(student, teacher):
  return {"student": outputs(student), "teacher": outputs(teacher)}


def make(dtype=jnp.float32, **options):
  """Returns the objective, its params and state, and a compiled step."""
  objective = _crd(EXAMPLES, negatives=NEGATIVES, dim=DIM, **options)
  spec = pair(np.zeros((BATCH, 5)), np.zeros((BATCH, 7)))
  variables = jax.jit(lambda: objective.init(jax.random.key(0), spec))()

  def cast(x):
    return x.astype(dtype) if x.dtype == jnp.float32 else x

  def step(params, state, student, teacher, batch, key, *, axis_name=None):
    def loss(params):
      given = pair(student, teacher)
      loss, moved, _ = objective.apply(
        params, state, given, batch, key, axis_name=axis_name
      )
      return loss, moved

    value, gradient = jax.value_and_grad(loss, has_aux=True)(params)
    if axis_name is not None:
      gradient = jax.lax.pmean(gradient, axis_name)
    return value, gradient

  return objective, *jax.tree.map(cast, variables), step


@functools.cache
def compiled():
  """Params, state and the compiled step of one device."""
  _, params, state, step = make()
  return params, state, jax.jit(step)


def batch_of(index, mask=None):
  mask = np.ones(len(index), bool) if mask is None else mask
  return {"index": jnp.asarray(index), "mask": jnp.asarray(mask)}


def inputs(rows=BATCH):
  return RNG.normal(size=(rows, 5)), RNG.normal(size=(rows, 7))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def oracle(params, banks, normalizers, features, index, drawn):
  """One step of the published method, as a person would write it."""
  embedded = [
    unit(x @ np.asarray(params[r]["kernel"]) + np.asarray(params[r]["bias"]))
    for r, x in zip(("student", "teacher"), features, strict=True)
  ]
  noise, loss = drawn.shape[1] / EXAMPLES, 0.0
  for i in range(2):
    other = banks[1 - i]
    positive = np.exp((embedded[i] * other[index]).sum(1) / 0.07)
    negative = np.exp(np.einsum("bd,bkd->bk", embedded[i], other[drawn]) / 0.07)
    if normalizers[i] is None:
      scores = np.concatenate([positive[:, None], negative], 1)
      normalizers[i] = scores.mean() * EXAMPLES
    p, q = positive / normalizers[i], negative / normalizers[i]
    loss -= np.mean(np.log(p / (p + noise + 1e-7)))
    loss -= np.mean(np.log(noise / (q + noise + 1e-7)).sum(1))
  moved = [bank.copy() for bank in banks]
  for bank, new in zip(moved, embedded, strict=True):
    bank[index] = unit(0.5 * bank[index] + 0.5 * new)
  return loss, moved


@pytest.mark.slow
def test_two_steps_equal_numpy():
  """The second keeps the first's normalizer and sees its banks."""
  with jax.enable_x64(True):
    _, params, state, step = make(jnp.float64)
    step = jax.jit(step)
    draw = jax.jit(_draw, static_argnums=(2, 3, 5))
    banks = [np.asarray(state["banks"][r]) for r in ("student", "teacher")]
    normalizers = [None, None]
    for i in range(2):
      index, features = RNG.permutation(EXAMPLES)[:BATCH], inputs()
      key = jax.random.key(i)
      drawn = np.asarray(draw(key, index, NEGATIVES, EXAMPLES, state, None))
      expected, banks = oracle(
        params, banks, normalizers, features, index, drawn
      )
      (value, state), gradient = step(
        params, state, *features, batch_of(index), key
      )
      np.testing.assert_allclose(value, expected, rtol=1e-10)
      for role, bank, z in zip(
        ("student", "teacher"), banks, normalizers, strict=True
      ):
        np.testing.assert_allclose(state["banks"][role], bank, rtol=1e-10)
        np.testing.assert_allclose(
          np.exp(state["log_normalizers"][role]), z, rtol=1e-10
        )
        assert np.any(gradient[role]["kernel"] != 0)


@pytest.mark.slow
def test_padding_and_repeated_examples():
  params, state, step = compiled()
  features = [np.float32(x) for x in inputs()]
  index = np.arange(BATCH)
  index[3] = index[9] = 7
  mask = np.arange(BATCH) < 12

  def run(*arguments):
    return step(params, state, *arguments, jax.random.key(0))

  (value, moved), _ = run(*features, batch_of(index, mask))
  for role, rows in zip(("student", "teacher"), features, strict=True):
    before, after = state["banks"][role], moved["banks"][role]
    changed = np.any(before != after, 1)
    # Example 7 is written once, from the last of its three rows.
    assert set(np.flatnonzero(changed)) == set(index[mask])
    linear = jax.device_get(params[role])
    new = unit(rows @ linear["kernel"] + linear["bias"])
    np.testing.assert_allclose(
      after[7], unit(0.5 * before[7] + 0.5 * new[9]), rtol=1e-4, atol=1e-6
    )
  spoiled = [np.where(mask[:, None], x, 100 * x) for x in features]
  (other, same), _ = run(*spoiled, batch_of(index, mask))
  np.testing.assert_allclose(other, value, rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, same, moved)
  # A batch of padding changes nothing, and does not set the normalizer.
  (value, same), gradient = run(*features, batch_of(index, 0 * mask > 0))
  assert value == 0
  jax.tree.map(np.testing.assert_array_equal, same, state)
  for leaf in jax.tree.leaves(gradient):
    np.testing.assert_array_equal(leaf, 0)


@pytest.mark.slow
def test_negatives_are_other_examples_or_other_classes():
  index = np.arange(EXAMPLES)

  @jax.jit
  def draw(state):
    rows = jnp.arange(EXAMPLES)
    return _draw(jax.random.key(0), rows, 1000, EXAMPLES, state, None)

  drawn = np.asarray(draw({}))
  assert not np.any(drawn == index[:, None])
  assert drawn.min() == 0
  assert drawn.max() == EXAMPLES - 1
  # Each of the others is as likely: 1000 draws for each of 40 examples.
  counts = np.bincount(drawn.ravel(), minlength=EXAMPLES)
  assert np.all(abs(counts - 1000) < 6 * np.sqrt(1000))

  labels = RNG.integers(0, 3, EXAMPLES)
  _, _, state, _ = make(labels=labels)
  drawn = np.asarray(draw(state))
  assert not np.any(labels[drawn] == labels[:, None])
  assert [len(set(row)) for row in drawn] == [
    np.sum(labels != label) for label in labels
  ]


@pytest.mark.slow
def test_devices_agree():
  params, state, single = compiled()
  several = functools.partial(make()[-1], axis_name="batch")
  features = [np.float32(x) for x in inputs()]
  index = RNG.integers(0, 12, BATCH)  # with repetitions over devices
  mask = np.ones(BATCH, bool)
  mask[[0, 1, 4, 15]] = False
  batch, key = batch_of(index, mask), jax.random.key(3)
  expected = single(params, state, *features, batch, key)

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = P("batch")
  sharded = jax.shard_map(
    several,
    mesh=mesh,
    in_specs=(P(), P(), rows, rows, rows, P()),
    out_specs=P(),
  )
  got = jax.jit(sharded)(params, state, *features, batch, key)
  split = jax.tree.map(
    lambda x: x.reshape(8, -1, *x.shape[1:]), (*features, batch)
  )
  mapped = jax.pmap(several, "batch", in_axes=(None, None, 0, 0, 0, None))
  each = mapped(params, state, *split, key)
  for result in (
    got,
    *(jax.tree.map(lambda x, i=i: x[i], each) for i in (0, 7)),
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      result,
      expected,
    )


@pytest.mark.slow
def test_sweep_over_temperatures_is_a_vmap():
  params, state, step = compiled()
  features = [np.float32(x) for x in inputs()]
  temperatures = jnp.array([0.07, 0.2])

  def run(temperature):
    hyper = state["hyperparameters"] | {"temperature": temperature}
    return step(
      params,
      state | {"hyperparameters": hyper},
      *features,
      batch_of(np.arange(BATCH)),
      jax.random.key(0),
    )[0][0]

  values = jax.jit(jax.vmap(run))(temperatures)
  for value, temperature in zip(values, temperatures, strict=True):
    np.testing.assert_allclose(value, run(temperature), rtol=1e-5)


@pytest.mark.slow
def test_negatives_are_never_all_in_memory():
  """Their rows would take 64 MiB; their scores take 1/256 of that."""
  count, width = 4096, 256
  objective = _crd(8192, negatives=count, dim=width)
  spec = pair(jnp.zeros((16, 4)), jnp.zeros((16, 4)))
  params, state = jax.eval_shape(
    lambda: objective.init(jax.random.key(0), spec)
  )

  def loss(params, state, batch):
    return objective.apply(params, state, spec, batch, jax.random.key(0))[0]

  program = jax.jit(jax.grad(loss)).lower(
    params, state, batch_of(np.zeros(16, int))
  )
  used = program.compile().memory_analysis().temp_size_in_bytes
  assert used < 64 * 2**20


def test_errors_say_what_came():
  with pytest.raises(ValueError, match=r"labels have shape \(3,\)"):
    _crd(40, labels=np.zeros(3, int))
  with pytest.raises(ValueError, match="labels are all alike"):
    _crd(40, labels=np.zeros(40, int))
  with pytest.raises(ValueError, match="num_examples is 1"):
    _crd(1)
  bare = Outputs(jnp.zeros((2, 3)), {}, None)
  with pytest.raises(ValueError, match="student has no embedding"):
    _crd(40).init(jax.random.key(0), {"student": bare})


def test_a_batch_without_index_is_refused():
  batch = {"mask": jnp.ones(2, bool)}
  with pytest.raises(
    ValueError, match=r"crd: batch has \['mask'\]; .* 'index'"
  ):
    _crd(9).apply({}, {}, {}, batch, jax.random.key(0))


def test_embeddings_are_as_wide_as_the_banks():
  """PyTorch's default in width; float64 where JAX takes it."""
  with jax.enable_x64(True):
    spec = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
      pair(*np.zeros((2, BATCH, 400))),
    )
    params, state = jax.jit(
      lambda: _crd(EXAMPLES, negatives=NEGATIVES, dim=DIM).init(
        jax.random.key(0), spec
      )
    )()
  layer = params["student"]
  assert layer["kernel"].dtype == state["banks"]["student"].dtype == np.float64
  for name in ("kernel", "bias"):
    assert 0.5 < np.abs(layer[name]).max() * 20 <= 1
