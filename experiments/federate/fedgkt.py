"""FedGKT: clients send embeddings, logits and labels, and get logits.

A client has a small network. The server has a larger one, whose inputs are the
clients' embeddings of their private images, and an optimizer that goes on over
the rounds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.federate import clients
from experiments.federate.clients import Setting, Shard
from kdjax import federated, metrics, nets, training
from kdjax.ops import cross_entropy


def exchange_loss(
  student_logits: jax.Array,
  consensus_logits: jax.Array,
  labels: jax.Array,
  taught: jax.Array,
) -> jax.Array:
  """The loss of both sides; labels alone for an example without an answer."""
  both = federated.fedgkt_loss(student_logits, consensus_logits, labels)
  return jnp.where(taught, both, cross_entropy(student_logits, labels))


def make_fedgkt(
  setting: Setting,
) -> tuple[
  Callable[[jax.Array], Any],
  Callable[..., Any],
  Callable[..., jax.Array],
  float,
  float,
]:
  """The start, a round, the accuracy, and the bytes up and down of a client."""
  config, network, classes = setting.config, setting.network, setting.classes
  width, count = config.hidden[-1], len(setting.private["label"])

  def build(rngs: nnx.Rngs) -> nnx.Module:
    shape = 1, 1, width
    hidden = config.mentor_hidden
    return nets.MLP(classes, input_shape=shape, hidden=hidden, rngs=rngs)

  above = training.Network.of(build)
  client = training.distill(network, None, exchange_loss, setting.optimizer)
  server = training.distill(
    above, None, exchange_loss, optax.adam(config.server_learning_rate)
  )

  def batch() -> dict[str, Any]:
    spec = setting.batch()
    return spec | {"taught": jax.ShapeDtypeStruct(spec["mask"].shape, bool)}

  def start(key: jax.Array) -> Any:
    keys = jax.random.split(key)
    state = client.init(key, batch())
    rows = jax.ShapeDtypeStruct((config.batch_size, 1, 1, width), jnp.float32)
    return {
      # Seed i starts from the same network as under the other methods.
      "state": jax.tree.map(
        lambda x: jnp.broadcast_to(x, (config.clients, *x.shape)), state
      ),
      "server": server.init(keys[1], batch() | {"image": rows}),
      # The server's answers to the private images, and which it has seen.
      "consensus_logits": jnp.zeros((count, classes)),
      "taught": jnp.zeros(count, bool),
    }

  def train(state: Any, shard: Shard, key: jax.Array, answers: Any) -> Any:
    known = setting._replace(private=setting.private | answers)
    return clients.pass_over(known, client.step, state, {}, shard, key)

  def send(state: Any, shard: Shard) -> tuple[jax.Array, jax.Array]:
    images = setting.private["image"][shard.index]
    outputs = clients.outputs_of(network, state.params["student"], images)
    return outputs.embedding, outputs.logits

  def advance(tree, shards, alive, key, number):
    del number
    keys = jax.random.split(key, 3)
    before = tree["state"]
    answers = {k: tree[k] for k in ("consensus_logits", "taught")}
    own = jax.random.split(keys[0], config.clients)
    states = jax.vmap(train, (0, 0, 0, None))(before, shards, own, answers)
    sent = jax.vmap(send)(states, shards)
    # All that arrives, one row an example.
    arrived = (shards.mask & alive[:, None]).ravel()
    embeddings, logits = (
      jnp.where(arrived[:, None], x.reshape(-1, x.shape[-1]), 0.0) for x in sent
    )
    rows = shards.index.ravel()
    data = {
      "image": embeddings[:, None, None],
      "label": setting.private["label"][rows],
      "consensus_logits": logits,
      "taught": arrived,
    }
    shape = config.server_steps, config.batch_size
    drawn = jax.random.categorical(
      keys[1], jnp.where(arrived, 0.0, -jnp.inf), shape=shape
    )
    plan = {"index": drawn, "mask": jnp.ones(shape, bool)}
    epoch = training.scan_epoch(server.step)
    learned, _ = epoch(tree["server"], {}, data, plan, keys[2], axis_name=None)
    replies = clients.outputs_of(
      above, learned.params["student"], data["image"]
    ).logits
    # A client that died keeps the answers of before.
    places = jnp.where(arrived, rows, count)
    return {
      "state": clients.keep(states, before, alive),
      "server": learned,
      "consensus_logits": answers["consensus_logits"]
      .at[places]
      .set(replies, mode="drop"),
      "taught": answers["taught"].at[places].set(True, mode="drop"),
    }

  def accuracy(tree, part):
    def one(params):
      rows = clients.outputs_of(network, params, part["image"]).embedding
      outputs = clients.outputs_of(
        above, tree["server"].params["student"], rows[:, None, None]
      )
      return jnp.mean(metrics.accuracy(outputs.logits, part["label"]))

    return jnp.mean(jax.vmap(one)(tree["state"].params["student"]))

  # Of a client on average: each private image is one client's.
  share = count / config.clients
  row, label = (
    jax.ShapeDtypeStruct(shape, dtype)
    for shape, dtype in (((classes,), jnp.float32), ((), jnp.int32))
  )
  embedding = jax.ShapeDtypeStruct((width,), jnp.float32)
  up = share * federated.message_bytes((embedding, row, label))
  return start, advance, accuracy, up, share * federated.message_bytes(row)
