"""FedGen's generator, and the losses of its server and of its clients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.federate.clients import Setting, outputs_of
from kdjax import federated, nets, training
from kdjax.ops import cross_entropy, kl_divergence

NOISE = 32  # numbers that the generator draws, as the authors' for MNIST


def client_loss(
  student_logits: jax.Array,
  student_classifier: Any,
  labels: jax.Array,
  own_generated: jax.Array,
  generated: jax.Array,
  generated_label: jax.Array,
  regularization: jax.Array,
) -> jax.Array:
  """The loss of a client: labels, generated embeddings, and its own classes.

  The generated embeddings of the labels of the batch say what its images'
  answers should be; those of drawn labels are further examples for the head.
  """
  kernel, bias = student_classifier
  drawn = cross_entropy(generated @ kernel + bias[None], generated_label)
  target = jax.lax.stop_gradient(own_generated @ kernel + bias[None])
  near = kl_divergence(student_logits, target)
  return cross_entropy(student_logits, labels) + regularization * (drawn + near)


def server_loss(
  student_logits: jax.Array,
  labels: jax.Array,
  noise: jax.Array,
  kernels: jax.Array,
  biases: jax.Array,
  shares: jax.Array,
  *,
  where: jax.Array,
  axis_name: str | None,
) -> jax.Array:
  """The loss of the generator, whose answers are embeddings."""
  answers = jnp.einsum("bd,kdc->kbc", student_logits, kernels)
  agree = federated.fedgen_generator_loss(
    answers + biases[:, None], labels, shares
  )
  apart = federated.fedgen_diversity_loss(
    student_logits, noise, where=where, axis_name=axis_name
  )
  return jnp.mean(agree) + apart


def make_fedgen(
  setting: Setting,
) -> tuple[training.Learner, training.Network, Callable[..., Any], Any]:
  """The clients' learner, the generator, its answers and its training."""
  config, classes = setting.config, setting.classes
  size, width = config.batch_size, config.hidden[-1]

  def build(rngs: nnx.Rngs) -> nnx.Module:
    return nets.MLP(
      width,
      input_shape=(1, 1, NOISE + classes),
      hidden=config.hidden,
      rngs=rngs,
    )

  generator = training.Network.of(build)
  learner = training.distill(
    setting.network, None, client_loss, setting.optimizer
  )
  own = training.distill(
    generator, None, server_loss, optax.adam(config.server_learning_rate)
  )

  def inputs(key: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    noise = jax.random.normal(key, (len(labels), NOISE))
    rows = jnp.concatenate([noise, jax.nn.one_hot(labels, classes)], -1)
    return noise, rows[:, None, None]

  def make(params: Any, labels: jax.Array, key: jax.Array) -> dict[str, Any]:
    """The entries that a client's batch of these labels is given."""
    keys = jax.random.split(key, 3)
    drawn = jax.random.randint(keys[0], labels.shape, 0, classes)

    def answer(key: jax.Array, labels: jax.Array) -> jax.Array:
      return outputs_of(generator, params, inputs(key, labels)[1]).logits

    return {
      "own_generated": answer(keys[1], labels),
      "generated": answer(keys[2], drawn),
      "generated_label": drawn,
    }

  def fit(params: Any, sent: Any, counts: jax.Array, key: jax.Array) -> Any:
    """The server trains the generator on what arrived of the clients."""
    total = jnp.sum(counts, 0, keepdims=True)
    shares = counts / jnp.maximum(total, 1.0)
    # A client that died has no share; NaN times nothing would be NaN.
    arrived = jnp.any(counts > 0, -1)[:, None]
    head = sent["head"]
    kernels = jnp.where(arrived[..., None], head["kernel"], 0.0)
    biases = jnp.where(arrived, head["bias"], 0.0)

    def batch_of(key: jax.Array) -> dict[str, Any]:
      keys = jax.random.split(key)
      labels = jax.random.randint(keys[0], (size,), 0, classes)
      noise, rows = inputs(keys[1], labels)
      return {
        "image": rows,
        "label": labels,
        "noise": noise,
        "kernels": kernels,
        "biases": biases,
        "shares": shares,
        "mask": jnp.ones(size, bool),
      }

    state = own.init(key, jax.eval_shape(batch_of, key))
    state = state._replace(params=state.params | {"student": params})

    def update(state: Any, key: jax.Array) -> tuple[Any, None]:
      return own.step(state, {}, batch_of(key), key, axis_name=None)[0], None

    keys = jax.random.split(key, config.server_steps)
    state, _ = jax.lax.scan(update, state, keys)
    return state.params["student"]

  return learner, generator, make, fit
