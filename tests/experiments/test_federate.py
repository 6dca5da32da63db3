"""The job of clients, reduced: shards, flags, deaths, bytes, resumption."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.federate import __main__ as federate
from experiments.federate import clients as federate_clients
from experiments.federate import data as federate_data
from experiments.federate import exchange
from experiments.federate import methods as federate_methods
from experiments.federate import report as federate_report
from experiments.federate.training import Row, count_bytes
from tests.experiments import runs

SMALL = federate.Config(
  examples=90,
  methods=("fedmd", "fedproto"),
  clients=3,
  concentrations=(1.0,),
  min_examples=5,
  public_examples=20,
  dying_clients=1,
  rounds=4,
  save_every=2,
  local_epochs=1,
  public_epochs=1,
  server_steps=2,
  hidden=(6,),
  mentor_hidden=(8,),
  seeds=2,
)
STAGES = ("local_1", "fedavg_1", "fedmd_1", "fedproto_1", "central")


run, small = runs.of(federate, SMALL)
reference = runs.reference(run, small)


@pytest.fixture(scope="module")
def setting():
  data = federate_data.load_data(SMALL)
  job = types.SimpleNamespace(config=SMALL, data=data)
  return federate_clients.make_setting(job), data


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"rounds": 5}, "rounds is 5; expected a multiple of save_every"),
    (
      {"methods": ("fedprox",)},
      "methods is .*; expected one or more different",
    ),
    ({"clients": 1}, "clients is 1; expected 2 or more"),
    ({"dying_clients": 3}, "dying_clients is 3; expected 0 to 2, since one"),
    ({"concentrations": (0.0,)}, "concentrations is .*; expected one or more"),
    ({"goal": 1.0}, "goal is 1.0; expected a number between 0 and 1"),
    ({"hidden": ()}, "hidden is .*; expected one or more numbers above 0"),
    ({"public_examples": 80}, "leaves 10 of 90 images; expected at least 15"),
    (
      {"concentrations": (1e-3,), "clients": 10},
      "client . of seed 0 has . of 70 images, dealt out 100 times",
    ),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    federate.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_every_image_goes_to_one_client_and_padding_is_masked():
  labels = np.repeat(np.arange(5), 40)
  apart = {}
  for concentration in (0.1, 100.0):
    dealt = federate_data.deal(labels, 4, concentration, minimum=10, seed=3)
    assert sorted(np.concatenate(dealt)) == list(range(200))
    assert min(map(len, dealt)) >= 10
    counts = np.stack([np.bincount(labels[x], minlength=5) for x in dealt])
    apart[concentration] = counts.std(0).mean()
  assert apart[0.1] > 3 * apart[100.0]
  shards = federate_data.pad([dealt], max(map(len, dealt)), 16)
  assert shards.index.shape[-1] % 16 == 0
  assert shards.sizes.tolist() == [[len(x) for x in dealt]]
  for index, mask, own in zip(
    shards.index[0], shards.mask[0], dealt, strict=True
  ):
    np.testing.assert_array_equal(index[mask], own)


@pytest.mark.parametrize("weights", ["equal", "size", "confidence"])
def test_what_a_dead_client_sent_does_not_matter(setting, weights):
  known = setting[0]._replace(
    config=dataclasses.replace(SMALL, weights=weights)
  )
  logits = jnp.array([[[2.0, 0.0]], [[0.0, 4.0]], [[9.0, 9.0]]])
  sizes, alive = jnp.array([3, 1, 7]), jnp.array([True, True, False])
  arrived = federate_clients.lost(logits, alive)
  assert np.isnan(arrived[2]).all()
  found = federate_clients.consensus(known, arrived, sizes, alive)
  expected = {
    "equal": [[1.0, 2.0]],
    "size": [[1.5, 1.0]],
    "confidence": [[0.4, 3.2]],  # variances 1 and 4
  }
  np.testing.assert_allclose(found, expected[weights], rtol=1e-6)


def test_as_many_clients_die_as_the_flag_says(setting):
  keys = jax.random.split(jax.random.key(0), 40)
  alive = jax.vmap(lambda key: federate_clients.living(setting[0], key))(keys)
  assert (alive.sum(1) == 2).all()
  assert (alive.sum(0) < 40).all()  # not always the same one


def test_no_client_has_the_key_of_the_noise():
  keys = exchange.consensus_keys(jax.random.key(0), 3)
  known = [*keys.public, *keys.clients]
  rows = [tuple(jax.random.key_data(x).tolist()) for x in [*known, keys.server]]
  assert len(set(rows)) == len(rows)


def test_bytes_are_those_of_what_is_sent(setting):
  found = {
    name: federate_methods.make_method(name, setting[0])
    for name in ("fedavg", "fedmd", "fedproto", "fedgkt", "local")
  }
  bytes_ = {name: (x.up, x.down) for name, x in found.items()}
  network = 4 * (64 * 6 + 6 + 6 * 10 + 10)
  prototypes = 4 * 10 * 6
  images = (90 - 20) / 3  # of a client on average
  assert bytes_ == {
    "fedavg": (network, network),
    "fedmd": (4 * 20 * 10, 4 * 20 * 10),
    "fedproto": (prototypes + 4 * 10, prototypes + 10),
    "fedgkt": (images * 4 * (6 + 10 + 1), images * 4 * 10),
    "local": (0, 0),
  }


def test_a_client_that_dies_before_it_sends_gets_no_consensus(setting):
  """FedMD's clients send first; those of FedAvg get parameters first."""
  died = np.array([[1], [1], [0]])
  sent = {}
  for name in ("fedavg", "fedmd"):
    method = federate_methods.make_method(name, setting[0])
    sent[name] = count_bytes(method, 3, died).ravel() / method.up
  assert sent["fedavg"].tolist() == [5, 10, 16]
  assert sent["fedmd"].tolist() == [0, 4, 10]


def make_row(accuracy, each=1_000_000, up=1):
  accuracy = np.array(accuracy)[:, None] + np.array([0.0, 0.01, -0.02])
  sent = np.cumsum(np.full(accuracy.shape, each), 0)
  return Row(accuracy, np.zeros(accuracy.shape), sent, up, up)


def test_rounds_and_megabytes_to_the_goal():
  rows = {
    "local": make_row([0.3, 0.4, 0.5], 0, 0),
    "fedavg": make_row([0.6, 0.8, 0.89]),
    "feddf": make_row([0.7, 0.93, 0.95]),
    "fedproto": make_row([0.2, 0.2, 0.2]),
    "central": make_row([0.95, 0.96, 0.97], 0, 0),
  }
  config = types.SimpleNamespace(goal=0.9, seeds=3)
  job = types.SimpleNamespace(config=config)
  cells = {
    name: row[3:5]
    for name, row in zip(
      rows, federate_report.make_table(job, 1.0, rows).rows, strict=True
    )
  }
  assert cells == {
    "local": ["never", ""],
    "fedavg": ["3.0 (1 of 3)", "3.00 (1 of 3)"],
    "feddf": ["2.0 ± 0.0", "2.00 ± 0.00"],
    "fedproto": ["never", "never"],
    "central": ["1.0 ± 0.0", ""],
  }
  texts = federate_report.conclude(job, rows)
  assert texts[-1].endswith("in every seed: FedDF 2.00.")


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, results = reference
  report = (folder / "report.md").read_text()
  assert (folder / "bytes.png").stat().st_size > 10_000
  for text in (
    "# 3 clients of digits",
    "(bytes.png)",
    "In each round 1 of 3 clients, drawn by the seed, died before they sent "
    "(4 times in 4 rounds of a seed). Each round went on with the others",
    "too few seeds for a verdict",
    "The consensus is the mean of logits; clients count equally in it",
  ):
    assert text in report
  rows = results[1.0]
  for name, row in rows.items():
    assert f"\n| {federate_methods.NAMES[name]} |" in report
    assert row.accuracy.shape == (4, 2)
    assert np.isfinite(row.accuracy).all()
  # Three clients get, two send; FedMD's first round sends nothing, and what it
  # sends goes to the two.
  row = rows["fedavg"]
  assert row.sent[-1].tolist() == [4 * (3 * row.down + 2 * row.up)] * 2
  row = rows["fedmd"]
  assert row.sent[-1].tolist() == [3 * (2 * row.down + 2 * row.up)] * 2
  logged = [json.loads(line) for line in runs.lines_of(folder)]
  assert [(row["stage"], row["step"]) for row in logged] == [
    (stage, step) for stage in STAGES for step in (2, 4)
  ]
  assert {row["died"] for row in logged} == {1.0}


@pytest.mark.slow
def test_padding_and_dead_clients_move_nothing(setting):
  known, data = setting
  method = federate_methods.make_method("fedavg", known)
  shards = jax.tree.map(lambda x: jnp.asarray(x)[0], tuple(data.shards[1.0]))
  shards = federate_clients.Shard(*shards)
  key = jax.random.key(5)
  tree = jax.jit(method.start)(key)
  advance = jax.jit(method.advance)
  alive = jnp.array([True, False, True])

  def params(shards):
    after = advance(tree, shards, alive, key, jnp.int32(0))
    return after["state"].params["student"]

  before = params(shards)
  # Padding points to other images, and the dead client has others.
  index = jnp.where(shards.mask, shards.index, 7).at[1].set(11)
  jax.tree.map(
    np.testing.assert_array_equal, params(shards._replace(index=index)), before
  )
  assert any(
    np.any(a != b)
    for a, b in zip(
      jax.tree.leaves(before),
      jax.tree.leaves(tree["state"].params["student"]),
      strict=True,
    )
  )
  # The one that lives does matter.
  index = shards.index.at[0].set(11)
  moved = params(shards._replace(index=index))
  assert np.any(moved["head"]["bias"] != before["head"]["bias"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "fedavg", *federate_methods.METHODS])
def test_a_round_of_every_method_returns_what_it_began_with(setting, name):
  known, data = setting
  method = federate_methods.make_method(name, known)
  shards = jax.tree.map(lambda x: jnp.asarray(x)[0], tuple(data.shards[1.0]))

  def whole(key):
    tree = method.start(key)
    alive = federate_clients.living(known, key)
    after = method.advance(
      tree, federate_clients.Shard(*shards), alive, key, jnp.int32(1)
    )
    return tree, after, method.accuracy(after, data.test)

  before, after, accuracy = jax.eval_shape(whole, jax.random.key(0))
  assert before == after
  assert accuracy.shape == ()
