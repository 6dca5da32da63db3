"""A round of each method: clients train, send, and are sent something."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.federate import clients, exchange
from experiments.federate.clients import Setting, Shard
from experiments.federate.fedgen import make_fedgen
from experiments.federate.fedgkt import make_fedgkt
from kdjax import federated, finetuning, metrics, training
from kdjax import methods as kmethods

BASELINE, LOCAL, CENTRAL = "fedavg", "local", "central"
OWN = {
  "fedgen": "a generator of embeddings, which the clients agree on, teaches "
  "them"
}
METHODS = ("fedntd", "feddf", "fedgen", "fedkd", "fedmd", "fedproto", "fedgkt")
NAMES = {
  LOCAL: "local alone",
  **{
    name: kmethods.describe(name).title
    for name in (BASELINE, *METHODS)
    if name not in OWN
  },
  "fedgen": "FedGen",
  CENTRAL: "centralized",
}


def describe() -> dict[str, tuple[str, str]]:
  """The area and the summary of each method, for `--methods help`."""
  return {
    name: (
      "federated",
      OWN.get(name) or kmethods.describe(name).summary,
    )
    for name in METHODS
  }


class Method(NamedTuple):
  """The functions of a method for one seed, and the sizes of its messages."""

  start: Callable[[jax.Array], Any]  # key -> tree, with a "state"
  # (tree, shards, alive, key, number) -> tree, of one round.
  advance: Callable[..., Any]
  accuracy: Callable[..., jax.Array]  # (tree, part) -> scalar
  # Bytes that a client sends in a round, and that it gets; of FedGKT, whose
  # messages grow with a client's images, their mean over clients.
  up: float
  down: float
  quiet: int = 0  # rounds at the start in which nothing is sent
  # Whether clients send first, so that one that died gets nothing.
  up_first: bool = False


def make_method(name: str, setting: Setting) -> Method:
  """Makes a method by its name."""
  makers = {
    "local": make_local,
    "central": make_local,
    "fedavg": make_average,
    "fedntd": make_average,
    "feddf": make_average,
    "fedgen": make_generated,
    "fedkd": make_fedkd,
    "fedmd": make_fedmd,
    "fedproto": make_fedproto,
    "fedgkt": lambda _, setting: Method(*make_fedgkt(setting), up_first=True),
  }
  return makers[name](name, setting)


def hits(setting: Setting, params: Any, part: dict[str, Any]) -> jax.Array:
  """The accuracy of one network."""
  outputs = clients.outputs_of(setting.network, params, part["image"])
  return jnp.mean(metrics.accuracy(outputs.logits, part["label"]))


def spread(tree: Any, count: int) -> Any:
  """The same for each client."""
  return jax.tree.map(
    lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree
  )


def train_clients(
  setting: Setting,
  step: Callable[..., Any],
  states: Any,
  frozen: Any,
  shards: Shard,
  key: jax.Array,
) -> Any:
  """All clients train at once; what is frozen is the same for them."""

  def one(state: Any, shard: Shard, key: jax.Array) -> Any:
    return clients.pass_over(setting, step, state, frozen, shard, key)

  keys = jax.random.split(key, len(shards.index))
  return jax.vmap(one)(states, shards, keys)


def size_of(init: Callable[..., Any]) -> int:
  """Bytes of the parameters of a network."""
  specs = jax.eval_shape(init, jax.random.key(0))
  return federated.message_bytes(specs.params)


def mean_hits(setting: Setting, tree: Any, part: dict[str, Any]) -> jax.Array:
  """The mean accuracy of the clients' networks."""
  params = tree["state"].params["student"]
  return jnp.mean(jax.vmap(lambda x: hits(setting, x, part))(params))


def make_local(name: str, setting: Setting) -> Method:
  """Clients that send nothing; one that has all data is centralized."""
  learner = training.distill(
    setting.network, None, kmethods.create("scratch"), setting.optimizer
  )
  count = 1 if name == CENTRAL else setting.config.clients

  def start(key: jax.Array) -> Any:
    return {"state": spread(learner.init(key, setting.batch()), count)}

  def advance(tree, shards, alive, key, number):
    del alive, number
    states = train_clients(
      setting, learner.step, tree["state"], {}, shards, key
    )
    return {"state": states}

  return Method(
    start, advance, lambda tree, part: mean_hits(setting, tree, part), 0, 0
  )


def make_average(name: str, setting: Setting) -> Method:
  """FedAvg, and what differs by a client's loss or by the server's training."""
  network, config = setting.network, setting.config
  parts = exchange.averaging(name, setting)

  def start(key: jax.Array) -> Any:
    return {"state": parts.init(key)}

  def advance(tree, shards, alive, key, number):
    del number
    server = tree["state"]
    keys = exchange.average_keys(key, config.clients)
    trained = jax.vmap(parts.train, (None, 0, 0))(server, shards, keys.clients)
    sent = clients.lost(trained, alive)
    sizes = jnp.sum(shards.mask, -1)
    return {"state": parts.update(server, sent, sizes, alive, keys.server)}

  size = size_of(network.init)
  return Method(
    start,
    advance,
    lambda tree, part: hits(setting, tree["state"].params["student"], part),
    size,
    size,
  )


def make_fedmd(name: str, setting: Setting) -> Method:
  """FedMD: clients send logits on public images and learn their consensus."""
  config, parts = setting.config, exchange.consenting(name, setting)

  def start(key: jax.Array) -> Any:
    return {"state": spread(parts.init(key), config.clients)}

  def advance(tree, shards, alive, key, number, heard=None):
    # A client may die between its logits and its training.
    heard = alive if heard is None else heard
    keys = exchange.consensus_keys(key, config.clients)
    before = tree["state"]
    sent = clients.lost(jax.vmap(parts.predict)(before), heard)
    sizes = jnp.sum(shards.mask, -1)
    target = parts.agree(sent, sizes, heard, keys.server)
    states = jax.vmap(parts.train, (0, None, None, 0, None, 0))(
      before, target, number, shards, keys.public, keys.clients
    )
    return {"state": clients.keep(states, before, alive)}

  count = len(setting.public)
  logits = jax.ShapeDtypeStruct((count, setting.classes), jnp.float32)
  size = federated.message_bytes(logits)
  return Method(
    start,
    advance,
    lambda tree, part: mean_hits(setting, tree, part),
    size,
    size,
    quiet=1,
    up_first=True,
  )


def make_fedproto(name: str, setting: Setting) -> Method:
  """FedProto: clients send the mean embedding of each of their classes."""
  config, network = setting.config, setting.network
  shape = setting.classes, config.hidden[-1]
  learner = training.distill(
    network,
    None,
    kmethods.create(
      name, prototypes=jnp.zeros(shape), available=jnp.zeros(shape[0])
    ),
    setting.optimizer,
  )

  def start(key: jax.Array) -> Any:
    state = learner.init(key, setting.batch())
    return {
      "state": spread(state, config.clients),
      "prototypes": jnp.zeros(shape),
      "available": jnp.zeros(setting.classes, bool),
    }

  def advance(tree, shards, alive, key, number):
    del number
    keys = jax.random.split(key)
    before, known = tree["state"], tree["available"]
    fresh = learner.init(
      keys[1],
      setting.batch(),
      prototypes=tree["prototypes"],
      available=known,
    )
    # The prototypes of this round are hyper-parameters of the loss.
    objective = spread(fresh.state["objective"], config.clients)
    states = before._replace(state=before.state | {"objective": objective})
    states = train_clients(setting, learner.step, states, {}, shards, keys[0])

    def mean_embeddings(params, shard):
      images, labels = (
        setting.private[k][shard.index] for k in ("image", "label")
      )
      rows = clients.outputs_of(network, params, images).embedding
      members = jax.nn.one_hot(labels, setting.classes) * shard.mask[:, None]
      means = finetuning.class_prototypes(
        rows, labels, num_classes=setting.classes, where=shard.mask
      )
      return means, jnp.sum(members, 0)

    means, counts = jax.vmap(mean_embeddings)(states.params["student"], shards)
    means, seen = federated.federated_prototypes(
      clients.lost(means, alive), jnp.where(alive[:, None], counts, 0.0)
    )
    # A class whose clients all died keeps its prototype.
    means = jnp.where(seen[:, None], means, tree["prototypes"])
    return {
      "state": clients.keep(states, before, alive),
      "prototypes": means,
      "available": known | seen,
    }

  def accuracy(tree, part):
    def one(params):
      rows = clients.outputs_of(network, params, part["image"]).embedding
      logits = finetuning.prototypical_logits(
        rows, tree["prototypes"], where=tree["available"]
      )
      return jnp.mean(metrics.accuracy(logits, part["label"]))

    return jnp.mean(jax.vmap(one)(tree["state"].params["student"]))

  prototypes = jax.ShapeDtypeStruct(shape, jnp.float32)
  row = jax.ShapeDtypeStruct(shape[:1], jnp.float32)
  flags = jax.ShapeDtypeStruct(shape[:1], jnp.bool_)
  return Method(
    start,
    advance,
    accuracy,
    federated.message_bytes((prototypes, row)),
    federated.message_bytes((prototypes, flags)),
  )


def make_fedkd(name: str, setting: Setting) -> Method:
  """FedKD: mentors stay with their clients and teach a mentee that is sent."""
  config = setting.config
  learner = training.collaborate(
    [setting.mentor, setting.network],
    kmethods.create(name),
    setting.optimizer,
  )
  averaged = exchange.averaging("fedavg", setting)

  def start(key: jax.Array) -> Any:
    state = learner.init(key, setting.batch())
    # The mentee starts from the network that the other methods start from.
    return {
      "state": spread(state, config.clients),
      "shared": averaged.init(key).params["student"],
    }

  def advance(tree, shards, alive, key, number):
    del number
    before = tree["state"]
    shared = spread(tree["shared"], config.clients)
    states = before._replace(params=before.params | {"peer_1": shared})
    states = train_clients(setting, learner.step, states, {}, shards, key)
    sent = clients.lost(states.params["peer_1"], alive)
    sizes = jnp.sum(shards.mask, -1) * alive
    return {
      "state": clients.keep(states, before, alive),
      "shared": federated.federated_average(sent, sizes),
    }

  size = size_of(setting.network.init)
  return Method(
    start,
    advance,
    lambda tree, part: hits(setting, tree["shared"], part),
    size,
    size,
  )


def make_generated(name: str, setting: Setting) -> Method:
  """FedGen: the server's generator stands for the data of all clients."""
  del name
  config, network = setting.config, setting.network
  learner, generator, make, fit = make_fedgen(setting)
  size = size_of(network.init)

  def start(key: jax.Array) -> Any:
    keys = jax.random.split(key)
    spec = setting.batch() | make_specs(setting)
    return {
      "state": learner.init(key, spec),
      "generator": generator.init(keys[1]).params,
    }

  def advance(tree, shards, alive, key, number):
    server, keys = tree["state"], jax.random.split(key)
    # Nothing in the first round, then the published decay.
    decayed = config.generator_weight * 0.98**number
    weight = jnp.where(number > 0, decayed, 0.0)

    def step(state, frozen, batch, key, *, axis_name=None):
      more = make(frozen["generator"], batch["label"], key) | {
        "regularization": weight
      }
      return learner.step(state, {}, batch | more, key, axis_name=axis_name)

    states = train_clients(
      setting,
      step,
      spread(server, config.clients),
      {"generator": tree["generator"]},
      shards,
      keys[0],
    )
    sent = clients.lost(states.params["student"], alive)
    sizes = jnp.sum(shards.mask, -1) * alive
    params = federated.federated_average(sent, sizes)
    labels = setting.private["label"][shards.index]
    members = jax.nn.one_hot(labels, setting.classes) * shards.mask[..., None]
    counts = jnp.sum(members, 1) * alive[:, None]
    fitted = fit(tree["generator"], sent, counts, keys[1])
    state = server._replace(params=server.params | {"student": params})
    return {"state": state, "generator": fitted}

  counts = jax.ShapeDtypeStruct((setting.classes,), jnp.float32)
  return Method(
    start,
    advance,
    lambda tree, part: hits(setting, tree["state"].params["student"], part),
    size + federated.message_bytes(counts),
    size + size_of(generator.init),
  )


def make_specs(setting: Setting) -> dict[str, Any]:
  """The further entries of a batch of FedGen."""
  size, width = setting.config.batch_size, setting.config.hidden[-1]
  rows = jax.ShapeDtypeStruct((size, width), jnp.float32)
  return {
    "own_generated": rows,
    "generated": rows,
    "generated_label": jax.ShapeDtypeStruct((size,), np.int32),
    "regularization": jax.ShapeDtypeStruct((), jnp.float32),
  }
