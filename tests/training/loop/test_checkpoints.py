"""Everything that moves is saved, whole or not at all."""

import os
import pathlib
import random
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kdjax.training import Checkpoints, RunError, TrainState
from kdjax.training.loop import _checkpoints

HERE = pathlib.Path(__file__).parent
STEPS = 20


def tree():
  params = {"student": {0: jnp.arange(3.0), 1: jnp.ones((), jnp.bfloat16)}}
  params["objective"] = {}
  optimizer = optax.adam(optax.linear_schedule(0.1, 0.0, 3))
  state = TrainState(jnp.array(7), params, {}, optimizer.init(params))
  return state, jax.random.key(3)


def assert_equal(actual, expected):
  actual, expected = (
    jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, t)
    for t in (actual, expected)
  )
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  assert jax.tree.map(lambda x: x.dtype, actual) == jax.tree.map(
    lambda x: x.dtype, expected
  )


def is_key(x):
  return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def test_a_train_state_and_its_key_come_back_as_they_were(tmp_path):
  with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
    assert checkpoints.restore(tree()) is None
    checkpoints.save(7, tree(), {"epoch": 2, "order": [1, 0]})
  template = jax.tree.map(jnp.zeros_like, tree()[0]), jax.random.key(0)
  with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
    step, restored, position = checkpoints.restore(template)
  assert_equal(restored, tree())
  assert isinstance(restored[0], TrainState)
  assert (step, position) == (7, {"epoch": 2, "order": [1, 0]})
  # A program compiled for arrays of no device in particular takes them.
  assert not any(leaf.committed for leaf in jax.tree.leaves(restored))


@pytest.mark.slow
def test_what_is_saved_may_change_or_be_donated_while_it_is_written(tmp_path):
  step = jax.jit(lambda x: x + 1, donate_argnums=0)
  state, position = jnp.zeros((300, 300)), {"row": 0}
  with Checkpoints(tmp_path, keep=10) as checkpoints:
    for i in range(10):
      checkpoints.save(i, {"x": state}, position)
      state = step(state)
      position["row"] += 1
    restored = checkpoints.restore({"x": state})
  np.testing.assert_array_equal(restored.tree["x"], 9)
  assert restored.position == {"row": 9}


@pytest.mark.slow
def test_only_the_latest_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in range(5):
      checkpoints.save(step, {"x": jnp.array(step)})
  assert sorted(os.listdir(tmp_path)) == ["3", "4"]
  with Checkpoints(tmp_path) as checkpoints:
    step, restored, position = checkpoints.restore({"x": jnp.array(0)})
  assert (step, restored["x"], position) == (4, 4, None)


def test_an_old_folder_is_not_mistaken_for_a_new_one(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, {"x": jnp.array(0)})
    for step in (4, 5):
      with pytest.raises(
        ValueError, match=f"step is {step}; expected .* above 5"
      ):
        checkpoints.save(step, {"x": jnp.array(0)})
    with pytest.raises(ValueError, match="the array y is missing in"):
      checkpoints.restore({"x": jnp.array(0), "y": jnp.array(0)})


@pytest.mark.slow
@pytest.mark.parametrize("where", ["file", "array"])
def test_a_damaged_checkpoint_is_not_restored(tmp_path, monkeypatch, where):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3):
      if step == 3 and where == "array":
        monkeypatch.setattr(_checkpoints, "_checksum", lambda leaf: 7)
      checkpoints.save(step, tree(), {"at": step})
  monkeypatch.undo()
  if where == "file":
    file = tmp_path / "3" / "tree" / "manifest.ocdbt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    message = f"step 3 is damaged: .*{where} .* from step 2, the newest intact"
    with pytest.warns(UserWarning, match=message):
      step, restored, position = checkpoints.restore(tree())
    assert_equal(restored, tree())
    assert (step, position) == (2, {"at": 2})
    checkpoints.save(3, tree(), {"at": 3})
  assert {"2", "3", "3.damaged"} == set(os.listdir(tmp_path))
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(tree()).position == {"at": 3}
  for step in (2, 3):
    (tmp_path / str(step) / "position" / "metadata").write_bytes(b"")
  message = r"step 3 is damaged: .*; step 2 is damaged: .* an intact checkpoint"
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(RunError, match=message),
  ):
    checkpoints.restore(tree())


def test_a_checkpoint_of_other_shapes_names_the_leaf(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, {"a": jnp.zeros((2, 3)), "b": jnp.ones(2)})
    for other, message in (
      ({"a": jnp.zeros((2, 4)), "b": jnp.ones(2)}, r"a is float32\[2, 3\] in"),
      (
        {"a": jnp.zeros((2, 3))},
        r"b is float32\[2\] in .* and missing",
      ),
      ({"a": jnp.zeros((2, 3)), "b": jnp.ones(2, int)}, r"int32\[2\] in this"),
    ):
      with pytest.raises(RunError, match=message):
        checkpoints.restore(other)


def test_arrays_come_back_in_the_sharding_of_the_template(tmp_path):
  mesh = jax.make_mesh((8,), ("batch",))
  sharding = NamedSharding(mesh, PartitionSpec("batch"))
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(0, {"x": jnp.arange(8)})
    template = {"x": jax.ShapeDtypeStruct((8,), jnp.int32, sharding=sharding)}
    restored = checkpoints.restore(template).tree
  assert restored["x"].sharding == sharding
  np.testing.assert_array_equal(restored["x"], np.arange(8))


def test_a_missing_orbax_is_named_with_its_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
  with pytest.raises(ImportError, match=r"pip install 'kdjax\[experiments\]'"):
    Checkpoints(tmp_path)


def start(*directories, die_at=-1, stdin=subprocess.DEVNULL):
  for directory in directories:
    directory.mkdir(exist_ok=True)
  root = HERE.parents[2]
  # All runs compile the same programs.
  cache = {
    "JAX_COMPILATION_CACHE_DIR": str(directories[-1].parent / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  return subprocess.Popen(
    [
      sys.executable,
      HERE / "killed_run.py",
      str(STEPS),
      str(die_at),
      *directories,
    ],
    stdin=stdin,
    stdout=subprocess.PIPE,
    text=True,
    cwd=root,
    env=os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"} | cache,
  )


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_parameters(tmp_path):
  generator = random.Random()
  straight, killed = tmp_path / "straight", tmp_path / "killed"

  # The reference; then killed by itself in the middle of a save: that step is
  # not there.
  process = start(straight, killed, die_at=4)
  process.communicate()
  assert process.returncode == -9

  # Killed from outside at a moment of chance, then left alone.
  process = start(killed, stdin=subprocess.PIPE)
  assert int(process.stdout.readline().split()[-1]) == 3
  process.stdin.write(6 * "\n")
  process.stdin.flush()
  for _ in range(generator.randint(1, 6)):
    process.stdout.readline()
  time.sleep(generator.uniform(0.0, 0.05))
  process.kill()
  process.communicate()
  assert process.returncode == -9
  process = start(killed)
  output, _ = process.communicate()
  assert process.returncode == 0
  assert 3 <= int(output.splitlines()[0].split()[-1]) < STEPS

  with (
    np.load(straight / "final.npz") as expected,
    np.load(killed / "final.npz") as actual,
  ):
    assert actual.files == expected.files
    for name in actual.files:
      np.testing.assert_array_equal(actual[name], expected[name])
