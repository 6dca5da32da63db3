"""The rounds of a method, all seeds at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.federate import clients, methods
from experiments.federate.clients import Shard
from experiments.frame import rounds


class Row(NamedTuple):
  """The results of a method, after each round."""

  accuracy: np.ndarray  # of test images, `[rounds, seeds]`
  died: np.ndarray  # clients that died, `[rounds, seeds]`
  sent: np.ndarray  # bytes of all clients both ways so far, `[rounds, seeds]`
  up: float  # bytes of a client and a round
  down: float


def train(job: Any) -> dict[float, dict[str, Row]]:
  """Trains all methods at all concentrations."""
  config = job.config
  names = (methods.LOCAL, methods.BASELINE, *config.methods)
  rows: dict[float, dict[str, Row]] = {x: {} for x in config.concentrations}
  for name in (*names, methods.CENTRAL):
    program = make_program(name, job)
    if name == methods.CENTRAL:
      # It does not matter who has what.
      row = run(name, name, job, program, job.data.whole)
      for found in rows.values():
        found[name] = row
      continue
    for concentration, shards in job.data.shards.items():
      stage = f"{name}_{concentration:g}"
      rows[concentration][name] = run(stage, name, job, program, shards)
  return rows


def make_program(name: str, job: Any) -> tuple[Any, Any, methods.Method]:
  """The compiled start and rounds of a method, and its messages."""
  config = job.config
  setting = clients.make_setting(job)
  method = methods.make_method(name, setting)

  def advance(tree, shards, private, public, test, key, first):
    # The images are arguments: constants would be part of the program.
    known = setting._replace(private=private, public=public)
    own = methods.make_method(name, known)

    def one(tree, number):
      alive_key, key_ = clients.round_keys(key, number)
      alive = clients.living(known, alive_key)
      tree = own.advance(tree, shards, alive, key_, number)
      died = jnp.sum(~alive)
      return tree, {"accuracy": own.accuracy(tree, test), "died": died}

    return jax.lax.scan(one, tree, first + jnp.arange(config.save_every))

  over = jax.vmap(advance, (0, 0, None, None, None, 0, None), (0, 1))
  return jax.jit(jax.vmap(method.start)), jax.jit(over), method


def run(stage: str, name: str, job: Any, program: Any, shards: Any) -> Row:
  """Trains a method on a division of the data."""
  config, data = job.config, job.data
  start, advance, method = program
  keys = rounds.seed_keys(config)
  own = Shard(*jax.device_put(tuple(shards)))

  def advance_rounds(first, tree, history):
    del history
    tree, seen = advance(
      tree,
      own,
      data.private,
      data.public["image"],
      data.test,
      keys,
      jnp.int32(first),
    )
    seen = jax.tree.map(np.ndarray.tolist, jax.device_get(seen))
    row = {
      "accuracy": np.mean(seen["accuracy"][-1]),
      "died": np.mean(seen["died"]),
    }
    text = f"accuracy {row['accuracy']:.1%}"
    if config.dying_clients and method.up:
      text += f", {row['died']:.0f} of {config.clients} clients died a round"
    return rounds.Round(tree, seen, row, text)

  _, history = rounds.run(
    job,
    stage,
    start(keys),
    advance_rounds,
    steps=config.rounds,
    every=config.save_every,
  )
  seen = {
    k: np.concatenate([np.array(part[k]) for part in history])
    for k in ("accuracy", "died")
  }
  sent = count_bytes(method, config.clients, seen["died"])
  return Row(seen["accuracy"], seen["died"], sent, method.up, method.down)


def count_bytes(
  method: methods.Method, clients: int, died: np.ndarray
) -> np.ndarray:
  """Bytes of all clients both ways up to each round, `[rounds, seeds]`."""
  alive = clients - died
  # What a client got before it died was sent, too.
  reached = alive if method.up_first else np.full_like(alive, clients)
  each = reached * method.down + alive * method.up
  each[: method.quiet] = 0
  return np.cumsum(each, 0)
