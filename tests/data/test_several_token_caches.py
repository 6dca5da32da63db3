"""Caches of what a teacher says of every token, and what losses make of it."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data import TeacherCache, write_teacher_cache
from kdjax.fused import known_log_probs, sample_teacher, sparse_divergence
from tests import oracles

SIZE, LENGTH, CLASSES, K, SAMPLES = 6, 7, 40, 4, 64
DOCS = pathlib.Path(__file__).parents[2] / "docs"
rng = np.random.default_rng(0)


def make_table():
  """The logits that each token gets: ordinary, and as hard as they come."""
  table = 3 * rng.normal(size=(12, CLASSES))
  table[0, 17] = 1e4
  table[1, :K] = 20.0 + np.arange(K)
  table[1, K:] -= 10.0  # The rest is a millionth or less.
  table[2] = 1e4 + np.round(table[2])
  table[3, 2:] = -np.inf
  table[4] = 0.0
  return np.float32(table)


TABLE = make_table()
TOKENS = rng.permuted(np.arange(SIZE * LENGTH) % 12).astype(np.int32)
TOKENS = TOKENS.reshape(SIZE, LENGTH)
TOKENS[0] = np.arange(5, 12)  # Ordinary: a header remembers the first.
SOURCE = [{"tokens": row} for row in TOKENS]
LOGITS = np.float64(TABLE)[TOKENS]
sample = functools.partial(sample_teacher, num_samples=SAMPLES)


def teacher(table, tokens):
  return jnp.asarray(table)[tokens]


def write(path, source=SOURCE, function=teacher, **options):
  options = {
    "dataset": "tokens/train",
    "inputs": "tokens",
    "batch_size": 4,
    "shard_size": 2,
  } | options
  return write_teacher_cache(path, source, function, TABLE, **options)


def batch(*index):
  index = np.array(index)
  return {"index": index, "tokens": TOKENS[index]}


@pytest.fixture(scope="module")
def likeliest(tmp_path_factory):
  path = tmp_path_factory.mktemp("likeliest")
  write(path, top_k=K)
  return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
  path = tmp_path_factory.mktemp("drawn")
  write(path, keep=sample, seed=5)
  return path


@pytest.mark.slow
def test_the_likeliest_classes_are_those_of_a_dense_computation(likeliest):
  top = TeacherCache(likeliest).lookup(np.arange(SIZE), 0)
  order = np.argsort(-LOGITS, -1, kind="stable")
  np.testing.assert_array_equal(top["ids"], order[..., :K])
  sorted_logits = np.take_along_axis(LOGITS, order, -1)
  np.testing.assert_array_equal(top["values"], sorted_logits[..., :K])
  with np.errstate(divide="ignore"):
    rest = np.logaddexp.reduce(sorted_logits[..., K:], -1)
  assert top["rest"].dtype == np.float32
  np.testing.assert_allclose(top["rest"], rest, rtol=1e-6)
  share = np.exp(rest - np.logaddexp.reduce(LOGITS, -1))
  assert share[TOKENS == 1].max() < 2e-6
  probs = np.exp(known_log_probs(top["values"], top["rest"]))
  exact = np.exp(np.float64(oracles.log_softmax(LOGITS)))
  kept = np.take_along_axis(exact, top["ids"], -1)
  # In float32 a log-sum-exp of 1e4 is known to 5e-4.
  usual = TOKENS != 2
  np.testing.assert_allclose(probs[usual], kept[usual], rtol=1e-6)
  np.testing.assert_allclose(probs, kept, rtol=1e-3)


@pytest.mark.slow
def test_the_loss_is_that_of_the_live_teacher(likeliest):
  cached = TeacherCache(likeliest).attach(batch(5, 0, 3), seed=0)
  student = jnp.asarray(rng.normal(size=(3, LENGTH, CLASSES)), jnp.float32)

  @jax.jit
  def losses(student, cached):
    def loss(student, ids, log_probs):
      values = sparse_divergence(student, ids, log_probs)
      return values.sum(), values

    log_probs = jax.nn.log_softmax(teacher(TABLE, cached["tokens"]))
    live = jax.lax.top_k(log_probs, K)[::-1]
    top = cached["teacher"]
    kept = top["ids"], known_log_probs(top["values"], top["rest"])
    grad = jax.grad(loss, has_aux=True)
    return grad(student, *live), grad(student, *kept)

  live, kept = losses(student, cached)
  usual = TOKENS[[5, 0, 3]] != 2
  for x, y in zip(live, kept, strict=True):
    np.testing.assert_allclose(x[usual], y[usual], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_a_resumed_write_draws_what_an_uninterrupted_one_does(tmp_path, drawn):
  class Dying(list):
    last = 2

    def __getitem__(self, index):
      if index > self.last:
        raise RuntimeError("killed")
      return super().__getitem__(index)

  options = {"keep": sample, "seed": 5}
  with pytest.raises(RuntimeError, match="killed"):
    write(tmp_path, Dying(SOURCE), **options)
  with pytest.raises(FileNotFoundError, match="1 of 3 shards"):
    TeacherCache(tmp_path).lookup([0], 5)
  cache = write(tmp_path, batch_size=3, **options)
  everything = batch(*range(SIZE))
  resumed = cache.attach(everything, seed=5)["teacher"]
  assert set(resumed) == {"ids", "log_probs", "weights"}
  for name, array in TeacherCache(drawn).lookup(np.arange(SIZE), 5).items():
    np.testing.assert_array_equal(resumed[name], array)


@pytest.mark.slow
def test_draws_are_unbiased_and_of_each_token_and_seed(drawn, tmp_path):
  said = TeacherCache(drawn).lookup(np.arange(SIZE), 5)
  counts, expected = np.zeros((2, 12, CLASSES))
  for token, row in enumerate(TABLE):
    where = token == TOKENS
    np.add.at(counts[token], said["ids"][where], said["weights"][where])
    expected[token] = where.sum() * np.exp(oracles.log_softmax(np.float64(row)))
  error = np.sqrt(expected / SAMPLES)
  assert (np.abs(counts - expected) <= 4 * error + 4 / SAMPLES).all()
  twins = [SOURCE[0]] * SIZE
  other = write(tmp_path, twins, keep=sample, seed=6)
  first, second = other.lookup([0, 1], 6)["ids"]
  assert np.any(first != second)
  assert np.any(first != said["ids"][0])


def test_any_arrays_are_kept_as_they_are(tmp_path):
  def outputs(table, tokens):
    logits = table[tokens]
    hidden = {"last": logits[..., :3].astype(jnp.bfloat16)}
    return {"logits": logits, "hidden": hidden}

  def keep(key, outputs):
    return {
      "hidden": outputs["hidden"]["last"],
      "index": outputs["logits"].argmax(-1).astype(jnp.uint16),
      "sure": outputs["logits"].max() > 1e3,
    }

  cache = write(tmp_path, function=outputs, keep=keep)
  kept = cache.lookup([4, 1], 0)
  hidden = TABLE[TOKENS[[4, 1]], :3].astype(jnp.bfloat16)
  assert kept["hidden"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(kept["hidden"], hidden)
  assert kept["index"].dtype == np.uint16
  np.testing.assert_array_equal(kept["index"], LOGITS[[4, 1]].argmax(-1))
  np.testing.assert_array_equal(kept["sure"], LOGITS[[4, 1]].max((1, 2)) > 1e3)
  empty = cache.lookup(np.zeros(0, int), 0)
  assert {k: v.shape for k, v in empty.items()} == {
    "hidden": (0, LENGTH, 3),
    "index": (0, LENGTH),
    "sure": (0,),
  }


def test_half_the_bytes_of_the_logits(tmp_path, likeliest):
  caches = write(tmp_path, top_k=K, dtype="bfloat16"), TeacherCache(likeliest)
  top, exact = (cache.lookup(np.arange(SIZE), 0) for cache in caches)
  assert top["values"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    top["values"], exact["values"].astype(jnp.bfloat16)
  )
  np.testing.assert_array_equal(top["ids"], exact["ids"])
  np.testing.assert_array_equal(top["rest"], exact["rest"])


def test_other_tokens_are_refused(likeliest):
  cache = TeacherCache(likeliest)
  wrong = batch(1, 2)
  wrong["tokens"] = wrong["tokens"].copy()
  wrong["tokens"][1, -1] += 1
  with pytest.raises(
    ValueError, match=r"example 2, seed 0, has tokens 0x.*\(1 of 2 differ"
  ):
    cache.attach(wrong, seed=0)
  wrong["tokens"] = wrong["tokens"][:, :-1]
  with pytest.raises(
    ValueError, match=r"rows of 'tokens' \(6,\) int32; expected \(7,\) int32"
  ):
    cache.attach(wrong, seed=0)
  wrong["tokens"] = TOKENS[:1]
  with pytest.raises(ValueError, match="has 1 rows of 'tokens'; expected one"):
    cache.attach(wrong, seed=0)
  del wrong["tokens"]
  with pytest.raises(
    ValueError, match=r"batch has \['index'\]; expected 'tokens' too"
  ):
    cache.attach(wrong, seed=0)


@pytest.mark.slow
def test_what_does_not_fit_is_refused(tmp_path, likeliest):
  with pytest.raises(
    ValueError, match=r"top_k is 4, expected 2; kept is \{.*7, 4"
  ):
    write(likeliest, top_k=2)
  longer = [{"tokens": np.append(row, row)} for row in TOKENS]
  with pytest.raises(ValueError, match=r"image is '\(7,\) int32', expected"):
    write(likeliest, longer, top_k=K)
  uneven = [*SOURCE[:4], {"tokens": TOKENS[0, :-1]}, SOURCE[5]]
  with pytest.raises(
    ValueError, match=r"example 4 of the source has tokens \(6,\) int32; exp"
  ):
    write(tmp_path / "uneven", uneven, top_k=K)
  with pytest.raises(
    ValueError, match=r"example 0 of the source has \['tokens'\]; expected 'im"
  ):
    write(tmp_path, inputs="image")
  with pytest.raises(
    ValueError, match="top_k is 3 and dtype 'float32'; expected"
  ):
    write(tmp_path, top_k=3, keep=sample)
  for keep in (lambda key, x: x, lambda key, x: {}, lambda key, x: {"a": (x,)}):
    with pytest.raises(ValueError, match=r"keep returns PyTreeDef\(.*a dict o"):
      write(tmp_path, keep=keep)
  with pytest.raises(ValueError, match="the teacher's a reach from inf to inf"):
    write(tmp_path, keep=lambda key, x: {"a": x[0, 0] + jnp.inf})


def test_another_temperature_of_the_draws_is_another_teacher(drawn):
  keep = functools.partial(sample, temperature=1.5)
  with pytest.raises(ValueError, match="does not answer as the one given"):
    write(drawn, keep=keep, seed=5)


@pytest.mark.slow
def test_the_example_of_the_page_runs():
  text = (DOCS / "fused.md").read_text()
  blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
  (program,) = (x for x in blocks if "write_teacher_cache" in x)
  names = {}
  exec(compile(program, "fused.md", "exec"), names)
  assert names["losses"][-1] < names["losses"][0]


def test_what_is_kept_may_be_a_number_and_the_rest_not_finite(tmp_path):
  """Any batch size resumes, and what is not kept need not be finite."""

  def summed(table, tokens):
    return {"sum": teacher(table, tokens)[:, 0, 0], "aux": tokens * jnp.nan}

  def keep(key, outputs):
    return {"sum": outputs["sum"]}

  write(tmp_path, function=summed, keep=keep, batch_size=3)
  cache = write(tmp_path, function=summed, keep=keep, batch_size=5, seed=1)
  kept = cache.lookup(np.arange(SIZE), 1)["sum"]
  np.testing.assert_array_equal(kept, TABLE[TOKENS[:, 0], 0])


def test_another_versions_header_is_named(tmp_path):
  write(tmp_path, top_k=K)
  path = tmp_path / "header.json"
  header = json.loads(path.read_text())
  del header["kept"]
  path.write_text(json.dumps(header))
  with pytest.raises(ValueError, match="another version of kdjax"):
    TeacherCache(tmp_path)
