"""Loads hostile files; ends with code 99 where one could have run code.

`python hostile_child.py FOLDER` makes the files in the folder, and prints the
name of each and the error that refused it.
"""

import functools
import json
import os
import pathlib
import pickle
import resource
import shutil
import struct
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from flax import nnx
from safetensors.numpy import save_file

from kdjax import training
from kdjax.nets import ResNet, load_torch

FORBIDDEN = (
  "pickle.find_class",
  "os.system",
  "os.exec",
  "os.posix_spawn",
  "os.fork",
  "subprocess.Popen",
  "ctypes.dlopen",
  "socket.connect",
)
STATE = {"w": jnp.arange(1000.0), "b": jnp.zeros(3)}
NAMES = ("os.system", "builtins.eval", "jax.Array", "subprocess.Popen")


class Bomb:
  """Runs a command where it is unpickled."""

  def __reduce__(self):
    return os.system, ("touch /tmp/kdjax-was-here",)


def watch(event, arguments):
  """An audit hook: events that only code from a file could cause."""
  text = event in ("exec", "compile") and "<" in str(
    getattr(arguments[0], "co_filename", arguments[-1])
  )
  if event in FORBIDDEN or (text and "<frozen" not in str(arguments)):
    os.write(2, f"{event} {arguments}\n"[:500].encode())
    os._exit(99)


def restore(folder):
  with warnings.catch_warnings(record=True):
    warnings.simplefilter("always")
    with training.Checkpoints(folder) as checkpoints:
      return checkpoints.restore(STATE)


def change(file, **entries):
  content = json.loads(file.read_text())
  file.write_text(json.dumps(content | entries))


def hostile_checkpoints(folder):
  """Name -> a function that turns an intact checkpoint into a hostile one."""

  def tree(text):
    return lambda at: (at / "tree" / "_METADATA").write_text(
      (at / "tree" / "_METADATA").read_text().replace("jax.Array", text)
    )

  def array(**entries):
    def write(at):
      spec = {"driver": "ocdbt", "base": f"file://{at / 'tree'}/"}
      store = ts.KvStore.open(spec).result()
      keys = [x for x in store.list().result() if x.endswith(b"w/.zarray")]
      for key in keys:
        store[key] = json.dumps(json.loads(store[key]) | entries).encode()

    return write

  def link(at):
    for file in (at / "tree").rglob("d/*"):
      file.unlink()
      file.symlink_to("/etc/passwd")

  def write(name, content):
    return lambda at: (at / name).write_bytes(content)

  bomb = pickle.dumps(Bomb())
  handlers = {"item_handlers": {"tree": NAMES[0], "position": NAMES[1]}}
  return {
    "handlers": lambda at: change(at / "_CHECKPOINT_METADATA", **handlers),
    **{f"types {x}": tree(x) for x in NAMES},
    "pickled position": write("position/metadata", bomb),
    "pickled metadata": write("tree/_METADATA", bomb),
    "pickled manifest": write("tree/manifest.ocdbt", bomb),
    "pickled sharding": write("tree/_sharding", bomb),
    "deep position": write("position/metadata", 100_000 * b"["),
    "many elements": array(shape=[10**12], chunks=[10**12]),
    "objects": array(dtype="|O"),
    "codec": array(compressor={"id": "pickle"}),
    "filters": array(filters=[{"id": "pickle"}]),
    "links": link,
  }


def hostile_weights():
  """Name -> the bytes of a safetensors file."""
  header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}

  def file(content, data=8 * b"\0", size=None):
    text = content if isinstance(content, bytes) else json.dumps(content)
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data

  def tensor(**entries):
    return file({"w": header["w"] | entries})

  return {
    "pickle": pickle.dumps(Bomb()),
    "pickled header": file(pickle.dumps(Bomb())),
    "endless header": file(header, size=2**63),
    "outside": tensor(data_offsets=[0, 10**12]),
    "before": tensor(data_offsets=[8, 0]),
    "many elements": tensor(shape=[10**12]),
    "objects": tensor(dtype="O"),
    "overlap": file(header | {"v": header["w"]}),
    "deep": file(10_000 * b"["),
    "empty": b"",
  }


def refused(name, load):
  try:
    found = load()
  except Exception as error:
    print(name, "-", type(error).__name__)
    return
  # What is not refused has exactly the arrays that were saved.
  assert found is not None, name
  for key, x in STATE.items():
    np.testing.assert_array_equal(found.tree[key], x)
  print(name, "- harmless")


def main(folder):
  intact, at = folder / "intact", folder / "hostile"
  with training.Checkpoints(intact) as checkpoints:
    checkpoints.save(1, STATE, {"row": 1})
  (intact / "1" / "checksums.json").unlink()
  model = ResNet(8, 10, input_shape=(8, 8, 3), rngs=nnx.Rngs(0))
  save_file({"w": np.zeros(2)}, folder / "intact.safetensors")
  # All modules that are imported where they are used.
  assert restore(intact).step == 1
  refused("intact weights", lambda: load_torch(model, intact.with_suffix(".x")))
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  sys.addaudithook(watch)
  for name, damage in hostile_checkpoints(folder).items():
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(intact, at)
    damage(at / "1")
    refused(f"checkpoint: {name}", lambda: restore(at))
  for name, content in hostile_weights().items():
    weights = folder / "hostile.safetensors"
    weights.write_bytes(content)
    refused(f"weights: {name}", functools.partial(load_torch, model, weights))
  for name, content in (
    ("pickle", pickle.dumps(Bomb())),
    ("deep", 100_000 * b"["),
  ):
    for file in ("config.json", "metrics.jsonl"):
      (folder / "run").mkdir(exist_ok=True)
      (folder / "run" / file).write_bytes(content + b"\n\n")
      with training.RunFolder(folder / "run") as run:
        read = run.read_config if file == "config.json" else run.read_rows
        refused(f"{file}: {name}", read)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 300 * 1024, f"took {(after - before) // 1024} MB"


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
