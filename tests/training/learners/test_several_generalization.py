"""The learner of domain generalization: several domains in one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods
from kdjax.nets import Outputs
from kdjax.ops import masked_mean
from kdjax.training import Model, Variables, generalize

KEY = jax.random.key(0)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels
BATCH = {
  "x": jax.random.normal(jax.random.key(1), (2, 4, 3)),
  "label": jnp.arange(8).reshape(2, 4) % 2,
  "mask": jnp.arange(8).reshape(2, 4) < 6,
}


def linear(variables, x, *, train, key):
  assert x.ndim == 2
  return Outputs(x @ variables.params, {}, x), variables.state


STUDENT = Model(
  linear, Variables(jax.random.normal(jax.random.key(2), (3, 2)), {})
)


def vrex(student_logits, labels, *, where, axis_name, penalty):
  values = cross_entropy(student_logits, labels)
  risks = jnp.stack(
    [
      masked_mean(v, w, axis_name=axis_name)
      for v, w in zip(values, where, strict=True)
    ]
  )
  return risks.mean() + penalty * risks.var()


@pytest.mark.slow
def test_a_loss_compares_the_domains():
  learner = generalize(STUDENT, vrex, optax.sgd(0.1), on="x", penalty=2.0)
  state = learner.init(KEY, BATCH)
  moved, metrics = jax.jit(learner.step)(state, {}, BATCH, KEY)

  def loss(weights):
    values = cross_entropy(BATCH["x"] @ weights, BATCH["label"])
    risks = jnp.stack([values[0].mean(), values[1, :2].mean()])
    return risks.mean() + 2 * risks.var()

  value, slope = jax.value_and_grad(loss)(STUDENT.variables.params)
  np.testing.assert_allclose(metrics["loss"], (6 * value, 6), rtol=1e-5)
  np.testing.assert_allclose(
    moved.params["student"],
    STUDENT.variables.params - 0.1 * slope,
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.slow
def test_one_value_an_example_is_averaged_over_all_domains():
  def plain(student_logits, labels):
    return cross_entropy(student_logits, labels)

  learner = generalize(STUDENT, plain, optax.sgd(0.1), on="x")
  state = learner.init(KEY, BATCH)
  _, metrics = jax.jit(learner.step)(state, {}, BATCH, KEY)
  values = cross_entropy(
    BATCH["x"] @ STUDENT.variables.params, BATCH["label"]
  ).ravel()[:6]
  np.testing.assert_allclose(metrics["loss"], (values.sum(), 6), rtol=1e-5)
  one = jax.tree.map(lambda x: x[0], BATCH)
  assert learner.evaluate(state, {}, one)["accuracy"][1] == 4


def test_others_are_trained_beside_the_student():
  """A network that tells the domains apart, on the student's inputs."""

  def adversary(student_logits, guess_logits):
    return jnp.sum(student_logits**2 + (guess_logits - 1) ** 2, -1)

  learner = generalize(
    STUDENT,
    methods.Method(
      methods.stateless(adversary),
      {
        name: methods.Pass(name, train=True, batch_axes=2)
        for name in ("student", "guess")
      },
    ),
    optax.sgd(0.05),
    others={"guess": nnx.Linear(3, 2, rngs=nnx.Rngs(0))},
    on="x",
  )
  state = learner.init(KEY, BATCH)
  assert set(state.params) == {"student", "guess", "objective"}
  moved, _ = jax.jit(learner.step)(state, {}, BATCH, KEY)
  changed = jax.tree.map(
    lambda a, b: bool(jnp.any(a != b)), moved.params, state.params
  )
  assert all(jax.tree.leaves(changed))
