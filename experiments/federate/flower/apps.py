"""A Flower app whose functions are those of the simulation.

Messages hold arrays and the number of the round. `--clients`, the shards and
the keys are those of the flags, which the run's configuration holds, so a
client that knows its number needs no other message to draw what the
simulation draws.
"""

import functools
import json
import os
import pathlib
import signal
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flwr.app import (
  ArrayRecord,
  ConfigRecord,
  Context,
  Message,
  MetricRecord,
  RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from experiments.federate import clients, exchange, methods
from experiments.federate.__main__ import Config
from experiments.federate.data import load_data
from experiments.frame import rounds

WAITING = 0.2  # seconds between two looks at the clients that are there


class World(NamedTuple):
  """The inputs that every process reads for itself from a run's flags."""

  method: str
  setting: clients.Setting
  shards: clients.Shard  # `[clients, size]`
  test: dict[str, Any]
  key: jax.Array
  parts: Any  # the compiled functions of the method

  def keys(self, number: int) -> tuple[jax.Array, exchange.Keys]:
    """Which clients live through a round, and the keys of the round."""
    alive, key = clients.round_keys(self.key, number)
    make = exchange.average_keys
    if self.method == "fedmd":
      make = exchange.consensus_keys
    count = self.setting.config.clients
    return clients.living(self.setting, alive), make(key, count)


@functools.lru_cache(1)
def make_world(method: str, flags: str) -> World:
  """Reads the data; `flags` is the configuration of `federate` as JSON."""
  entries: dict[str, Any] = {
    k: tuple(x) if isinstance(x, list) else x
    for k, x in json.loads(flags).items()
  }
  config = Config(**entries)
  data = load_data(config)
  setting = clients.make_setting(
    types.SimpleNamespace(config=config, data=data)
  )
  (shards,) = data.shards.values()
  own = clients.Shard(*(jnp.asarray(x[0]) for x in shards))
  key = rounds.seed_keys(config)[0]
  made: Any = exchange.averaging
  if method == "fedmd":
    made = exchange.consenting
  functions = made(method, setting)
  parts = type(functions)(*map(jax.jit, functions))
  return World(method, setting, own, data.test, key, parts)


def world_of(context: Context) -> World:
  """The world of a run."""
  flags = context.run_config
  return make_world(str(flags["method"]), str(flags["flags"]))


def pack(tree: Any) -> ArrayRecord:
  """The arrays of a tree as a message holds them."""
  leaves = jax.tree.leaves(jax.device_get(tree))
  return ArrayRecord(numpy_ndarrays=[np.asarray(x) for x in leaves])


def unpack(record: Any, like: Any) -> Any:
  """The tree of a message; `like` has its structure."""
  leaves = record.to_numpy_ndarrays()
  return jax.tree.unflatten(jax.tree.structure(like), map(jnp.asarray, leaves))


client_app = ClientApp()
server_app = ServerApp()


def die() -> NoReturn:
  """Ends this process as a power cut would: nothing is saved or sent."""
  os.kill(os.getpid(), signal.SIGKILL)
  raise AssertionError


def answer(message: Message, context: Context, **records: Any) -> Message:
  """A reply that names its client."""
  number = int(context.node_config["client"])
  size = jnp.sum(world_of(context).shards.mask[number])
  own = MetricRecord({"client": number, "size": int(size)})
  return Message(RecordDict({"own": own, **records}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
  """Trains a client for a round."""
  world, order = world_of(context), message.content["order"]
  number = int(order["number"])
  client = int(context.node_config["client"])
  alive, keys = world.keys(number)
  shard = jax.tree.map(lambda x: x[client], world.shards)
  if world.method == "fedmd":
    state = client_state(context, int(order["known"]))
    target = np.zeros((len(world.setting.public), world.setting.classes))
    target = unpack(message.content["arrays"], 0) if number else target
    state = world.parts.train(
      state,
      jnp.asarray(target, jnp.float32),
      number,
      shard,
      keys.public,
      keys.clients[client],
    )
    if not (number or alive[client]):
      die()  # no message came before this one
    # What the server has not heard of does not count: see `client_state`.
    for name in set(context.state) - {f"round_{order['known']}"}:
      del context.state[name]
    context.state[f"round_{number}"] = pack(state)
    hits = methods.hits(world.setting, state.params["student"], world.test)
    scores = MetricRecord({"accuracy": float(hits)})
    return answer(message, context, scores=scores)
  server = world.parts.init(world.key)
  params = unpack(message.content["arrays"], server.params["student"])
  server = server._replace(params=server.params | {"student": params})
  params = world.parts.train(server, shard, keys.clients[client])
  if not alive[client]:
    die()
  return answer(message, context, arrays=pack(params))


@client_app.query()
def predict(message: Message, context: Context) -> Message:
  """Sends the logits on public images that a round of FedMD begins with."""
  world, order = world_of(context), message.content["order"]
  number = int(order["number"])
  state = client_state(context, int(order["known"]))
  logits = world.parts.predict(state)
  alive, _ = world.keys(number)
  closing = number == world.setting.config.rounds
  if not (closing or alive[int(context.node_config["client"])]):
    die()
  return answer(message, context, arrays=pack(logits))


def client_state(context: Context, known: int) -> Any:
  """The state after the last round that the server has heard of.

  A client that was too late has trained for nothing, as one that died.
  """
  world = world_of(context)
  fresh = world.parts.init(world.key)
  if known < 0:
    return fresh
  return unpack(context.state[f"round_{known}"], fresh)


class Reply(NamedTuple):
  """The message of a client."""

  node: int
  content: RecordDict


class Channel:
  """Sends a message to the clients and collects what comes back in time."""

  def __init__(self, grid: Grid, world: World, timeout: float):
    self.grid, self.timeout = grid, timeout
    self.count = world.setting.config.clients
    self.last: dict[int, int] = {}  # node -> the last round it answered
    self.bytes = {"up": 0, "down": 0}
    self.said: list[str] = []

  def wait(self) -> None:
    """Waits until all clients are there."""
    end = time.monotonic() + self.timeout
    while (found := len(list(self.grid.get_node_ids()))) < self.count:
      if time.monotonic() > end:
        raise TimeoutError(
          f"{found} of {self.count} clients came in {self.timeout:g} s."
        )
      time.sleep(WAITING)

  def ask(
    self,
    kind: str,
    number: int,
    arrays: Any = None,
    heard: dict[int, Reply] | None = None,
  ) -> dict[int, Reply]:
    """Asks all clients, or those heard before; returns replies by client."""
    record = {} if arrays is None else {"arrays": pack(arrays)}
    if heard is None:
      nodes, asked = list(self.grid.get_node_ids()), set(range(self.count))
    else:
      nodes, asked = [x.node for x in heard.values()], set(heard)
    messages = []
    for node in nodes:
      order = {"number": number, "known": self.last.get(node, -1)}
      content = RecordDict({"order": ConfigRecord(order), **record})
      messages.append(
        Message(
          content, dst_node_id=node, message_type=kind, group_id=str(number)
        )
      )
      self.bytes["down"] += size_of(content)
    found = {}
    replies = self.grid.send_and_receive(messages, timeout=self.timeout)
    for reply in replies:
      if reply.has_error():
        continue
      self.bytes["up"] += size_of(reply.content)
      node, own = reply.metadata.src_node_id, reply.content["own"]
      found[int(own["client"])] = Reply(node, reply.content)
      if kind == "train":
        self.last[node] = number
    lost = sorted(asked - set(found))
    if lost:
      names = ", ".join(map(str, lost))
      self.said.append(
        f"round {number + 1}: no answer to {kind} from client {names}; the "
        f"round goes on with {len(found)} of {self.count}"
      )
      print(self.said[-1], flush=True)
    return found

  def stack(self, found: dict[int, Reply], like: Any) -> Any:
    """The trees of all clients `[clients, ...]`, NaN for those without."""
    empty = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), like)
    trees = [
      unpack(found[i].content["arrays"], like) if i in found else empty
      for i in range(self.count)
    ]
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)

  def sizes(self, found: dict[int, Reply]) -> tuple[jax.Array, jax.Array]:
    """The number of examples of each client, and who answered."""
    own = {i: x.content["own"] for i, x in found.items()}
    sizes = [own[i]["size"] if i in own else 0 for i in range(self.count)]
    alive = [i in own for i in range(self.count)]
    return jnp.array(sizes), jnp.array(alive)


def size_of(content: RecordDict) -> int:
  """Bytes of the arrays of a message, as Flower serializes them."""
  return sum(
    len(array.data)
    for record in content.array_records.values()
    for array in record.values()
  )


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
  """Runs the rounds; leaves a file for each, and one at the end."""
  folder = pathlib.Path(str(context.run_config["folder"]))
  write(folder / "begun.json", json.dumps({"pid": os.getpid()}).encode())
  try:
    world = world_of(context)
    timeout = float(context.run_config["timeout"])
    channel = Channel(grid, world, timeout)
    channel.wait()
    run = serve_consensus if world.method == "fedmd" else serve_average
    run(world, channel, functools.partial(save_round, folder))
    end = {"said": channel.said, "bytes": channel.bytes}
  except Exception as error:
    write(folder / "end.json", json.dumps({"error": repr(error)}).encode())
    raise
  write(folder / "end.json", json.dumps(end).encode())


def serve_average(
  world: World, channel: Channel, save: Callable[..., None]
) -> None:
  """FedAvg, FedNTD and FedDF."""
  server = world.parts.init(world.key)
  update = world.parts.update
  for number in range(world.setting.config.rounds):
    _, keys = world.keys(number)
    params = server.params["student"]
    found = channel.ask("train", number, params)
    sizes, alive = channel.sizes(found)
    if found:
      sent = channel.stack(found, params)
      server = update(server, sent, sizes, alive, keys.server)
    params = server.params["student"]
    hits = methods.hits(world.setting, params, world.test)
    save(number, jax.tree.leaves(params), alive, float(hits))


def serve_consensus(
  world: World, channel: Channel, save: Callable[..., None]
) -> None:
  """FedMD: asks for logits, then for training; asks once more at the end."""
  setting = world.setting
  shape = len(setting.public), setting.classes
  like = jax.ShapeDtypeStruct(shape, jnp.float32)
  agree = world.parts.agree
  alive, hits = jnp.zeros(0), 0.0
  target = jnp.zeros(shape)
  for number in range(setting.config.rounds + 1):
    _, keys = world.keys(number)
    found = None
    if number:
      found = channel.ask("query", number)
      sizes, heard = channel.sizes(found)
      if found:
        sent = channel.stack(found, like)
        target = agree(sent, sizes, heard, keys.server)
      # The consensus shows what the clients are after the round before.
      save(number - 1, [target], alive, hits, heard)
    if number == setting.config.rounds:
      return
    told = target if number else None
    found = channel.ask("train", number, told, found)
    alive = channel.sizes(found)[1]
    scores = [x.content["scores"]["accuracy"] for x in found.values()]
    hits = float(np.mean(scores)) if scores else 0.0


def save_round(
  folder: pathlib.Path,
  number: int,
  arrays: list[Any],
  alive: jax.Array,
  accuracy: float,
  heard: Any = (),
) -> None:
  """Leaves the results of a round for the comparison.

  `alive` have trained in the round; the consensus is of those `heard` after it.
  """
  named: dict[str, Any] = {
    f"array_{i}": np.asarray(x) for i, x in enumerate(arrays)
  }
  path = folder / f"round_{number}.npz"
  part = path.with_suffix(".part.npz")
  named |= {"alive": np.asarray(alive), "accuracy": accuracy}
  named |= {"heard": np.asarray(heard, bool)}
  np.savez(part, **named)
  part.replace(path)
  print(f"round {number + 1}: accuracy {accuracy:.1%}", flush=True)


def write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all."""
  part = path.with_suffix(".part")
  part.write_bytes(content)
  part.replace(path)
