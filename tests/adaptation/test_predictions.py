"""Losses on predictions and on the norms of features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.adaptation import afn_loss
from kdjax.adaptation import class_balance_loss
from kdjax.adaptation import entropy_loss
from kdjax.adaptation import hafn_loss
from kdjax.adaptation import information_maximization_loss
from kdjax.adaptation import mcc_loss


def logits(n=7, classes=4):
  return 2 * np.random.default_rng(0).normal(size=(n, classes))


def softmax(z):
  powers = np.exp(z - z.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def confusion(z, temperature):
  """The K x K matrix, as the paper has it."""
  p = softmax(z / temperature)
  weights = 1 + np.exp(np.sum(p * np.log(p + 1e-5), 1))
  matrix = (p * weights[:, None]).T @ p
  matrix /= matrix.sum(1, keepdims=True)
  return (matrix.sum() - np.trace(matrix)) / z.shape[1]


def entropy(p):
  return -np.sum(p * np.log(p), -1)


def test_equal_numpy():
  z = logits()
  p = softmax(z)
  soft = softmax(z / 1.7)
  with jax.enable_x64(True):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    close(entropy_loss(z), entropy(p))
    close(entropy_loss(z, temperature=1.7), entropy(soft))
    close(
      information_maximization_loss(z, diversity_weight=0.6, temperature=1.7),
      entropy(soft).mean() - 0.6 * entropy(soft.mean(0)),
    )
    close(class_balance_loss(p), -np.mean(np.log(p.mean(0) + 1e-6)))
    for temperature in (1.0, 2.5):
      close(mcc_loss(z, temperature=temperature), confusion(z, temperature))
    norms = np.linalg.norm(z, axis=1)
    close(afn_loss(z, delta=0.3), np.full(7, 0.09))
    close(
      jax.grad(lambda x: jnp.sum(afn_loss(x, delta=0.3)))(jnp.asarray(z)),
      -2 * 0.3 * z / norms[:, None],
    )
    close(hafn_loss(z, radius=3.0), (norms.mean() - 3) ** 2)


@pytest.mark.parametrize(
  "loss", [entropy_loss, information_maximization_loss, class_balance_loss]
)
def test_gradients(loss):
  with jax.enable_x64(True):
    z = jnp.asarray(softmax(logits()))
    check_grads(jax.jit(loss), (z,), order=1, modes=("fwd", "rev"))


COUPLED = {
  "im": information_maximization_loss,
  "balance": class_balance_loss,
  "mcc": mcc_loss,
  "hafn": hafn_loss,
}


@pytest.mark.parametrize("name", COUPLED)
def test_masks_and_extremes(name):
  loss = COUPLED[name]
  z = jnp.float32(softmax(logits()) if name == "balance" else logits())
  where = jnp.array([1, 0, 1, 1, 0, 1, 1], bool)

  @jax.jit
  def masked(z, where):
    return jax.value_and_grad(loss)(z, where=where)

  value, gradient = masked(jnp.where(where[:, None], z, jnp.nan), where)
  expected, wanted = jax.jit(jax.value_and_grad(loss))(z[where])
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(gradient[where], wanted, atol=1e-5)
  np.testing.assert_array_equal(gradient[~where], 0)

  value, gradient = masked(z, jnp.zeros(7, bool))
  assert value == 0
  assert not np.any(gradient)

  every = jnp.ones(7, bool)
  excluded = z.at[:, 0].set(-jnp.inf).at[2, :3].set(-jnp.inf)
  extremes = [0 * z, z.at[:].set(z[0])]
  if name != "balance":  # it takes probabilities
    extremes += [1e4 * z, -1e4 * z, excluded]
  for changed in extremes:
    if name != "hafn" or np.all(np.isfinite(changed)):
      value, gradient = masked(changed, every)
      assert np.isfinite(value)
      assert np.all(np.isfinite(gradient))
  value, gradient = masked(z, jnp.arange(7) == 3)
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))
  half = loss(z.astype(jnp.bfloat16))
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, loss(z), rtol=0.05)


def test_no_recompilation():
  z, traces = jnp.float32(logits()), []

  @jax.jit
  def run(temperature, weight, delta):
    traces.append(None)
    return (
      entropy_loss(z, temperature=temperature),
      information_maximization_loss(
        z, diversity_weight=weight, temperature=temperature
      ),
      mcc_loss(z, temperature=temperature),
      afn_loss(z, delta=delta),
      hafn_loss(z, radius=delta),
    )

  run(1.0, 1.0, 1.0)
  for got, want in zip(
    run(2.0, 0.5, 0.2),
    (
      entropy_loss(z, temperature=2.0),
      information_maximization_loss(z, diversity_weight=0.5, temperature=2.0),
      mcc_loss(z, temperature=2.0),
      afn_loss(z, delta=0.2),
      hafn_loss(z, radius=0.2),
    ),
    strict=True,
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert len(traces) == 1


def test_known_values():
  sure = 1e4 * jnp.eye(4)
  np.testing.assert_allclose(entropy_loss(0 * sure), np.log(4), rtol=1e-6)
  np.testing.assert_array_equal(entropy_loss(sure), 0)
  np.testing.assert_allclose(
    information_maximization_loss(sure), -np.log(4), rtol=1e-6
  )
  # All alike is as bad as unsure: no information either way.
  for z in (0 * sure, sure[jnp.zeros(4, int)]):
    np.testing.assert_allclose(information_maximization_loss(z), 0, atol=1e-6)
  np.testing.assert_allclose(mcc_loss(0 * sure), 0.75, rtol=1e-6)
  np.testing.assert_allclose(mcc_loss(sure), 0, atol=1e-6)
  # A class that is excluded everywhere is as if it were not there.
  z = jnp.float32(logits())
  np.testing.assert_allclose(
    mcc_loss(z.at[:, 3].set(-jnp.inf)), mcc_loss(z[:, :3]), rtol=1e-5
  )
  # A class that no example comes near is wholly confused, not 0 / 0.
  far = z.at[:, 3].set(-1e4)
  np.testing.assert_allclose(
    mcc_loss(far), 0.75 * mcc_loss(z[:, :3]) + 0.25, rtol=1e-5
  )
  value, gradient = jax.value_and_grad(lambda x: jnp.sum(afn_loss(x)))(
    jnp.array([[0.0, 0.0], [3.0, 4.0], [1e4, 1e4]])
  )
  assert value == 3
  np.testing.assert_array_equal(gradient[0], 0)
  np.testing.assert_allclose(gradient[1], [-1.2, -1.6], rtol=1e-6)
  np.testing.assert_allclose(gradient[2], -np.sqrt([2, 2]), rtol=1e-5)


def test_errors_name_the_argument():
  z = jnp.float32(logits())
  with pytest.raises(ValueError, match="temperature is 0"):
    mcc_loss(z, temperature=0)
  with pytest.raises(ValueError, match=r"where has shape \(3,\)"):
    information_maximization_loss(z, where=jnp.ones(3, bool))
  with pytest.raises(TypeError, match="target_logits has dtype int32"):
    entropy_loss(jnp.ones((2, 2), jnp.int32))
  with pytest.raises(ValueError, match=r"radius has shape \(2,\)"):
    hafn_loss(z, radius=jnp.ones(2))
