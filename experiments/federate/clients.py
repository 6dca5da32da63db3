"""Computations of all clients at once: training, predictions, lost messages."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from kdjax import data as kdata
from kdjax import federated, nets, training


class Setting(NamedTuple):
  """The inputs of all methods and rounds."""

  config: Any
  network: training.Network
  mentor: training.Network  # of FedKD
  private: dict[str, Any]
  public: jax.Array
  classes: int

  @property
  def optimizer(self) -> optax.GradientTransformation:
    """The clients': it has no memory, so that a masked batch moves nothing."""
    return optax.sgd(self.config.learning_rate)

  def batch(self) -> dict[str, Any]:
    """The shapes of a client's batch."""
    size = self.config.batch_size
    spec = {
      k: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
      for k, x in self.private.items()
    }
    spec["mask"] = jax.ShapeDtypeStruct((size,), jnp.bool_)
    logits = jax.ShapeDtypeStruct((size, self.classes), jnp.float32)
    return spec | {"consensus_logits": logits}


def make_setting(job: Any) -> Setting:
  """Networks and images of a run."""
  config, data = job.config, job.data
  mean, std = kdata.channel_statistics(jax.device_get(data.public["image"]))
  shape = data.private["image"].shape[1:]

  def network(hidden: tuple[int, ...]) -> training.Network:
    def build(rngs: nnx.Rngs) -> nnx.Module:
      return nets.MLP(data.classes, input_shape=shape, hidden=hidden, rngs=rngs)

    return training.Network.of(
      build,
      preprocess=lambda images: kdata.normalize(
        images, jnp.asarray(mean), jnp.asarray(std)
      ),
    )

  return Setting(
    config,
    network(config.hidden),
    network(config.mentor_hidden),
    data.private,
    data.public["image"],
    data.classes,
  )


class Shard(NamedTuple):
  """The private images of one client, or `[clients]` of them."""

  index: jax.Array  # `[size]`
  mask: jax.Array


def pass_over(
  setting: Setting,
  step: Callable[..., Any],
  state: training.TrainState,
  frozen: Any,
  shard: Shard,
  key: jax.Array,
) -> training.TrainState:
  """Trains one client for the epochs of a round.

  Its images come first in each pass; batches of padding alone move nothing.
  """
  config = setting.config
  epoch = training.scan_epoch(step)

  def one(number: Any, state: Any) -> Any:
    noise = jax.random.uniform(
      jax.random.fold_in(key, number), shard.mask.shape
    )
    order = jnp.argsort(jnp.where(shard.mask, noise, 2.0))
    rows = order.reshape(-1, config.batch_size)
    plan = {"index": shard.index[rows], "mask": shard.mask[rows]}
    return epoch(state, frozen, setting.private, plan, key, axis_name=None)[0]

  return jax.lax.fori_loop(0, config.local_epochs, one, state)


def outputs_of(
  network: training.Network, params: Any, images: jax.Array
) -> Any:
  """The outputs of a network without other variables."""
  variables = training.Variables(params, {})
  return network.forward(variables, images, train=False, key=None)[0]


def round_keys(key: jax.Array, number: Any) -> tuple[jax.Array, jax.Array]:
  """The keys of a round of a seed: of the deaths in it, and of all else."""
  alive_key, key = jax.random.split(jax.random.fold_in(key, number))
  return alive_key, key


def living(setting: Setting, key: jax.Array) -> jax.Array:
  """Which clients live through a round, `[clients]`."""
  clients = setting.config.clients
  order = jax.random.permutation(key, clients)
  return order >= setting.config.dying_clients


def lost(tree: Any, alive: jax.Array) -> Any:
  """The messages that arrive, `[clients, ...]`: NaN of clients that died."""
  return _where(alive, tree, jax.tree.map(lambda x: x * jnp.nan, tree))


def keep(new: Any, old: Any, alive: jax.Array) -> Any:
  """The states after a round: a client that died has its state of before."""
  return _where(alive, new, old)


def _where(alive: jax.Array, yes: Any, no: Any) -> Any:
  def choose(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(alive.reshape(-1, *[1] * (a.ndim - 1)), a, b)

  return jax.tree.map(choose, yes, no)


def consensus(
  setting: Setting, logits: jax.Array, sizes: jax.Array, alive: jax.Array
) -> jax.Array:
  """The consensus of the living clients `[images, classes]`."""
  config = setting.config
  weights = {
    "equal": lambda: jnp.ones_like(logits[..., 0]),
    "size": lambda: jnp.broadcast_to(sizes[:, None], logits.shape[:2]),
    "confidence": lambda: federated.confidence_weights(logits),
  }[config.weights]()
  return federated.consensus_logits(
    logits,
    average=config.consensus,
    weights=jnp.where(alive[:, None], weights, 0.0),
  )
