"""Results of Flower's processes beside those of the simulation."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.federate import clients, methods
from experiments.frame import tables

SENT = {"fedmd": "consensus"}  # what is compared; else the parameters


def flags_of(config: Any, method: str, timeout: float) -> dict[str, Any]:
  """The configuration of a run of Flower."""
  flags = json.dumps(dataclasses.asdict(config))
  return {"method": method, "flags": flags, "timeout": timeout}


def compare(
  flags: dict[str, Any], results: pathlib.Path, ended: dict[str, Any]
) -> dict[str, Any]:
  """Runs the simulation with the same clients lost; compares each round."""
  # The package is of an extra.
  from experiments.federate.flower import apps

  world = apps.make_world(flags["method"], flags["flags"])
  method = methods.make_method(world.method, world.setting)
  tree = jax.jit(method.start)(world.key)
  advance = jax.jit(method.advance)
  found = [read(results, i) for i in range(world.setting.config.rounds)]
  rows, agreed = [], np.zeros_like(found[0][0][0])
  before: Any = ()
  for number, (arrays, alive, accuracy, heard) in enumerate(found):
    if alive.any():
      _, key = clients.round_keys(world.key, number)
      known = alive, key, jnp.int32(number), *before
      tree = advance(tree, world.shards, *map(jnp.asarray, known))
    if world.method == "fedmd":
      before = (heard,)
      # Without any answer the server still has the consensus of before.
      if heard.any():
        agreed = consensus(world, tree, heard, number + 1)
      expected = [agreed]
      scores = each(world, tree)[alive]
      simulated = float(scores.mean()) if alive.any() else 0.0
    else:
      expected = jax.tree.leaves(tree["state"].params["student"])
      simulated = float(method.accuracy(tree, world.test))
    rows.append(
      {
        "answered": np.flatnonzero(alive).tolist(),
        "difference": largest(
          a - np.asarray(b) for a, b in zip(arrays, expected, strict=True)
        ),
        "largest": largest(expected),
        "accuracy": accuracy,
        "simulated_accuracy": simulated,
      }
    )
  counted = {"up": method.up, "down": method.down}
  return {"rounds": rows, **ended, "message_bytes": counted}


def largest(arrays: Iterable[Any]) -> float:
  """The largest absolute value of several arrays; NaN if one has NaN."""
  return float(np.max([np.max(np.abs(x)) for x in arrays]))


def read(
  results: pathlib.Path, number: int
) -> tuple[list[np.ndarray], np.ndarray, float, np.ndarray]:
  """The arrays of a round, who has trained, the accuracy, who was heard."""
  with np.load(results / f"round_{number}.npz") as file:
    count = sum(name.startswith("array_") for name in file.files)
    arrays = [file[f"array_{i}"] for i in range(count)]
    return arrays, file["alive"], float(file["accuracy"]), file["heard"]


def consensus(world: Any, tree: Any, heard: np.ndarray, number: int) -> Any:
  """The consensus that a round of FedMD begins with."""
  _, keys = world.keys(number)
  parts, alive = world.parts, jnp.asarray(heard)
  logits = jax.vmap(parts.predict)(tree["state"])
  sizes = jnp.sum(world.shards.mask, -1)
  sent = clients.lost(logits, alive)
  return parts.agree(sent, sizes, alive, keys.server)


def each(world: Any, tree: Any) -> np.ndarray:
  """The accuracy of each client's network."""
  params = tree["state"].params["student"]
  hits = jax.vmap(lambda x: methods.hits(world.setting, x, world.test))
  return np.asarray(hits(params))


def headline(row: dict[str, Any]) -> str:
  """The largest difference of a method, in words."""
  gap = largest(x["difference"] for x in row["rounds"])
  return "bit-equal" if gap == 0 else f"largest difference {gap:.1e}"


def write(job: Any, rows: dict[str, Any]) -> None:
  """Writes report.md and prints the tables."""
  config, parts = job.config, []
  findings = [f"{methods.NAMES[k]}: {headline(x)}." for k, x in rows.items()]
  for name, row in rows.items():
    findings += [f"{methods.NAMES[name]}, {text}." for text in row["said"]]
    cells = [
      [
        f"{number}",
        ", ".join(map(str, x["answered"])) or "none",
        f"{x['difference']:.1e}",
        f"{x['largest']:.2f}",
        f"{100 * x['accuracy']:.2f}",
        f"{100 * x['simulated_accuracy']:.2f}",
      ]
      for number, x in enumerate(row["rounds"], 1)
    ]
    header = ["round", "clients that answered", "largest difference"]
    header += ["largest value", "accuracy, %", "simulation's, %"]
    sent, counted = row["bytes"], row["message_bytes"]
    parts += [
      f"## {methods.NAMES[name]}",
      tables.Table(header, cells, methods.NAMES[name]),
      f"Flower's messages have {sent['up']:,} bytes of arrays up and "
      f"{sent['down']:,} down in all; `federated.message_bytes` counts "
      f"{counted['up']:,} up and {counted['down']:,} down for a client and a "
      "round. What is compared: the "
      f"{SENT.get(name, 'parameters')} that the server has after the round.",
    ]
  job.run.publish(
    job.console,
    f"{config.clients} clients of Flower beside the simulation",
    findings,
    *parts,
  )
