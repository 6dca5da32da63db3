"""The computations of one client and the server in a round of a method.

A simulation maps the functions of a client over all clients in one program; a
Flower app calls them in processes of their own. The keys are those of a round,
so that both draw the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.federate import clients
from experiments.federate.clients import Setting, Shard
from kdjax import federated, methods, training


class Keys(NamedTuple):
  """The keys of a round."""

  clients: jax.Array  # `[clients]`
  server: jax.Array
  public: tuple[jax.Array, ...] = ()  # the same for all clients


def average_keys(key: jax.Array, count: int) -> Keys:
  """The keys of a round of averages of parameters."""
  keys = jax.random.split(key)
  return Keys(jax.random.split(keys[0], count), keys[1])


def consensus_keys(key: jax.Array, count: int) -> Keys:
  """The keys of a round of FedMD."""
  keys = jax.random.split(key, 4)
  own = jax.random.split(keys[2], count)
  return Keys(own, keys[3], (keys[0], keys[1]))


class Averaging(NamedTuple):
  """The functions of FedAvg, FedNTD and FedDF."""

  init: Callable[[jax.Array], Any]  # key -> the server's state
  # (the server's state, shard, key) -> the parameters that a client sends.
  train: Callable[..., Any]
  # (state, sent, sizes, alive, key) -> the server's state after the round;
  # `sent`, `sizes` and `alive` are `[clients, ...]`.
  update: Callable[..., Any]


def averaging(name: str, setting: Setting) -> Averaging:
  """Makes the functions of a method that averages parameters."""
  network = setting.network
  if name == "fedntd":
    learner = training.continue_on(
      network, methods.create(name), setting.optimizer, past=network
    )
  else:
    learner = training.distill(
      network, None, methods.create("fedavg"), setting.optimizer
    )
  fuse = make_server(setting) if name == "feddf" else None

  def init(key: jax.Array) -> Any:
    return learner.init(key, setting.batch())

  def train(server: Any, shard: Shard, key: jax.Array) -> Any:
    frozen = {"past": server.student} if name == "fedntd" else {}
    state = clients.pass_over(setting, learner.step, server, frozen, shard, key)
    return state.params["student"]

  def update(
    server: Any,
    sent: Any,
    sizes: jax.Array,
    alive: jax.Array,
    key: jax.Array,
  ) -> Any:
    sizes = sizes * alive
    params = federated.federated_average(sent, sizes)
    if fuse:
      params = fuse(params, sent, sizes, alive, key)
    return server._replace(params=server.params | {"student": params})

  return Averaging(init, train, update)


def make_server(setting: Setting) -> Callable[..., Any]:
  """FedDF: the server learns the clients' consensus on public images."""
  config, network = setting.config, setting.network
  learner = training.distill(
    network,
    None,
    methods.create("feddf"),
    optax.adam(
      optax.cosine_decay_schedule(
        config.server_learning_rate, config.server_steps
      )
    ),
  )

  def fuse(params, sent, sizes, alive, key):
    logits = jax.vmap(
      lambda x: clients.outputs_of(network, x, setting.public).logits
    )(sent)
    target = clients.consensus(setting, logits, sizes, alive)
    state = learner.init(key, setting.batch())
    state = state._replace(params=state.params | {"student": params})
    data = {"image": setting.public, "consensus_logits": target}
    shape = config.server_steps, config.batch_size
    index = jax.random.randint(key, shape, 0, len(setting.public))
    plan = {"index": index, "mask": jnp.ones(shape, bool)}
    epoch = training.scan_epoch(learner.step)
    state, _ = epoch(state, {}, data, plan, key, axis_name=None)
    return state.params["student"]

  return fuse


class Consenting(NamedTuple):
  """The functions of FedMD."""

  init: Callable[[jax.Array], Any]  # key -> a client's state
  predict: Callable[[Any], jax.Array]  # state -> the logits that it sends
  # (sent, sizes, alive, key) -> the consensus that the server sends.
  agree: Callable[..., jax.Array]
  # (state, consensus, number of the round, shard, public keys, key) -> a
  # client's state after the round.
  train: Callable[..., Any]


def consenting(name: str, setting: Setting) -> Consenting:
  """Makes the functions of FedMD."""
  config, network = setting.config, setting.network
  revisit, digest = (
    training.distill(network, None, methods.create(x), setting.optimizer)
    for x in ("scratch", name)
  )

  def init(key: jax.Array) -> Any:
    return revisit.init(key, setting.batch())

  def predict(state: Any) -> jax.Array:
    params = state.params["student"]
    return clients.outputs_of(network, params, setting.public).logits

  def agree(
    sent: jax.Array, sizes: jax.Array, alive: jax.Array, key: jax.Array
  ) -> jax.Array:
    if config.noise_multiplier:
      return federated.private_consensus(
        key,
        sent,
        clip=config.clip,
        noise_multiplier=config.noise_multiplier,
        where=alive,
      )
    return clients.consensus(setting, sent, sizes, alive)

  def train(
    state: Any,
    target: jax.Array,
    number: Any,
    shard: Shard,
    public: tuple[jax.Array, ...],
    key: jax.Array,
  ) -> Any:
    data = {"image": setting.public, "consensus_logits": target}
    plans = jax.vmap(
      lambda key: training.epoch_plan(
        len(setting.public), config.batch_size, key=key
      )
    )(jax.random.split(public[0], config.public_epochs))
    plan = jax.tree.map(lambda x: x.reshape(-1, config.batch_size), plans)
    fresh = digest.init(public[1], setting.batch())
    before = state.params["student"]
    learned = fresh._replace(params=fresh.params | {"student": before})
    epoch = training.scan_epoch(digest.step)
    learned, _ = epoch(learned, {}, data, plan, public[1], axis_name=None)
    # The first round is the training before the first message.
    params = jax.tree.map(
      lambda new, old: jnp.where(number > 0, new, old),
      learned.params["student"],
      before,
    )
    state = state._replace(params=state.params | {"student": params})
    return clients.pass_over(setting, revisit.step, state, {}, shard, key)

  return Consenting(init, predict, agree, train)
