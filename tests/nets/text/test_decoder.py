"""A decoder: padding, caches, generation, a mesh, and its head in `fused`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from kdjax import nets
from kdjax.fused import linear_cross_entropy
from kdjax.language import next_token_log_probs, next_token_targets
from kdjax.ops import cross_entropy

# A bit of each family: grouped queries, windows, caps, norms of queries.
CONFIG = nets.DecoderConfig(
  17,
  width=8,
  depth=2,
  num_heads=4,
  key_heads=2,
  inner_width=12,
  max_length=16,
  query_norm=True,
  post_norms=True,
  attention_softcap=5.0,
  logit_softcap=3.0,
  window=3,
  windowed=(True, False),
)
TOKENS = np.random.default_rng(0).integers(1, 17, (3, 6))
MASK = np.array([[1] * 6, [1] * 4 + [0] * 2, [0] * 2 + [1] * 4], bool)


@functools.cache
def model():
  return far_from_uniform(nets.Decoder(CONFIG, rngs=nnx.Rngs(0)))


def far_from_uniform(network):
  """Initial values of 0.02 would make every token nearly alike."""
  state = nnx.state(network)
  nnx.update(
    network, jax.tree.map(lambda x: 10 * x if x.ndim > 1 else x, state)
  )
  return network


def without_values(**changes):
  """A decoder of shapes, for what is refused while a program is traced."""
  config = dataclasses.replace(CONFIG, depth=1, windowed=None, **changes)
  return nnx.eval_shape(lambda: nets.Decoder(config, rngs=nnx.Rngs(0)))


@jax.jit
def run(network, tokens, mask):
  return network({"tokens": tokens, "attention_mask": mask})


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_padding_on_either_side_changes_nothing():
  outputs = run(model(), TOKENS, MASK)
  whole = np.ones((1, 4), bool)
  for row, start in ((1, 0), (2, 2)):
    alone = run(model(), TOKENS[row : row + 1, start : start + 4], whole)
    for got, expected in (
      (outputs.logits, alone.logits),
      (outputs.features["f2"], alone.features["f2"]),
    ):
      close(got[row, start : start + 4], expected[0])
  for leaf in jax.tree.leaves(outputs._replace(cache=None)):
    assert np.all(np.isfinite(leaf))
  # What a classifier and its soft cap say of the embedding are the logits.
  kernel, cap = outputs.classifier[0], outputs.logit_softcap
  assert cap == CONFIG.logit_softcap
  close(outputs.logits, cap * jnp.tanh(outputs.embedding @ kernel / cap))


def test_arrays_of_each_layer_have_its_name():
  spec = jax.eval_shape(lambda network: network(TOKENS), model())
  assert list(spec.features) == ["f0", "f1", "f2"]
  assert spec.logit_softcap.shape == ()
  for name, shape in (
    ("attention", (3, 4, 6, 6)),
    ("scores", (3, 4, 6, 6)),
    ("queries", (3, 4, 6, 2)),
    ("keys", (3, 2, 6, 2)),
    ("values", (3, 2, 6, 2)),
  ):
    arrays = getattr(spec, name)
    assert {k: v.shape for k, v in arrays.items()} == {"f1": shape, "f2": shape}


@pytest.mark.slow
def test_a_cache_gives_what_the_whole_text_gives():
  whole = run(model(), TOKENS, MASK)

  @jax.jit
  def program(network, tokens, mask):
    cache, logits = network.init_cache(3, 6), []
    for start, stop in ((0, 3), (3, 4), (4, 6)):
      part = slice(start, stop)
      outputs = network(
        tokens[:, part], attention_mask=mask[:, part], cache=cache
      )
      cache = outputs.cache
      logits.append(outputs.logits)
    return jnp.concatenate(logits, 1), cache.length

  logits, length = program(model(), TOKENS, MASK)
  close(logits[MASK], whole.logits[MASK])
  assert length == 6


@pytest.mark.slow
def test_a_window_counts_tokens_though_padding_lies_between_two_calls():
  """A prompt padded on the right, and a text after it from the cache."""

  @jax.jit
  def program(network, tokens, mask):
    cache = network.init_cache(3, 8)
    cache = network(tokens, attention_mask=mask, cache=cache).cache
    return network(tokens[:, :2], cache=cache).logits

  logits = program(model(), TOKENS, MASK)
  text = np.concatenate([TOKENS[1, :4], TOKENS[1, :2]])[None]
  whole = run(model(), text, np.ones((1, 6), bool))
  close(logits[1], whole.logits[0, 4:])


def test_a_cache_that_is_full_is_refused():
  network, tokens = without_values(), np.ones((2, 3), int)

  def run(network, places, length=0, batch=2):
    cache = network.init_cache(batch, places)._replace(length=length)
    return network(tokens, cache=cache).logits

  for options, text in (
    ({"places": 2}, "3 tokens and cache 2 places, 0 of them filled"),
    ({"places": 6, "length": 4}, "at most 2 tokens: make a longer cache"),
    ({"places": 6, "batch": 1}, "1 blocks and 1 texts; expected 1 and 2"),
  ):
    with pytest.raises(ValueError, match=text):
      jax.eval_shape(functools.partial(run, **options), network)


@pytest.mark.slow
def test_what_no_table_and_no_cache_holds_is_nan():
  """But for padding; a full cache inside jit stays NaN."""
  network = model()
  tokens = np.where(MASK, TOKENS, -100)
  assert np.all(np.isfinite(run(network, tokens, MASK).logits[MASK]))
  for token in (17, -1):
    logits = run(network, np.where(TOKENS == 5, token, TOKENS), MASK).logits
    wrong = ((TOKENS == 5) & MASK).any(1)
    assert 0 < wrong.sum() < 3
    np.testing.assert_array_equal(np.isnan(logits).all((1, 2)), wrong)
    assert np.all(np.isfinite(logits[~wrong]))

  @jax.jit
  def step(cache, tokens):
    outputs = network(tokens, cache=cache)
    return outputs.cache, outputs.logits

  cache, logits = jax.lax.scan(
    step, network.init_cache(3, 4), TOKENS.T[:, :, None]
  )
  assert cache.length == 6
  np.testing.assert_array_equal(
    np.isnan(logits).all((1, 2, 3)), np.arange(6) >= 4
  )


@pytest.mark.slow
def test_text_is_written_until_its_first_end():
  """Greedy, as if each token were the last of a text without a cache."""
  prompts, mask = TOKENS[:, :4], MASK[::-1, 2:].copy()

  @functools.partial(jax.jit, static_argnames=("temperature", "end"))
  def program(key, network, temperature, end=None):
    return nets.generate(
      key,
      network,
      prompts,
      mask,
      num_tokens=3,
      temperature=temperature,
      end=end,
    )

  written = program(jax.random.key(0), model(), 0.0)
  logits = run(model(), written.tokens[:, :6], written.attention_mask[:, :6])
  np.testing.assert_array_equal(
    written.tokens[:, 4:], jnp.argmax(logits.logits[:, 3:], -1)
  )
  np.testing.assert_array_equal(written.where, np.arange(7) >= [[4]] * 3)
  log_probs = jax.nn.log_softmax(logits.logits[:, 3:])
  close(
    written.log_probs[:, 4:],
    jnp.take_along_axis(log_probs, written.tokens[:, 4:, None], -1)[..., 0],
  )
  # At the positions of the labels, they are those of the logits there.
  labels, where = next_token_targets(written.tokens, written.where)
  own = run(model(), written.tokens, written.attention_mask).logits
  own = jnp.take_along_axis(jax.nn.log_softmax(own), labels[..., None], -1)
  close(next_token_log_probs(written.log_probs)[where], own[..., 0][where])
  end = int(written.tokens[0, 5])
  ended = program(jax.random.key(0), model(), 0.0, end)
  for row in range(3):
    tokens = list(np.asarray(written.tokens[row, 4:]))
    count = tokens.index(end) + 1 if end in tokens else 3
    np.testing.assert_array_equal(
      ended.tokens[row, 4:], tokens[:count] + [0] * (3 - count)
    )
    np.testing.assert_array_equal(ended.where[row, 4:], np.arange(3) < count)


@pytest.mark.slow
def test_samples_follow_the_softmax():
  """A thousand first tokens of one prompt, and the likeliest three of them."""
  network, prompts = model(), np.tile(TOKENS[:1, :2], (1000, 1))

  @functools.partial(jax.jit, static_argnames="top_k")
  def program(key, network, top_k=None):
    return nets.generate(
      key, network, prompts, num_tokens=1, temperature=1.5, top_k=top_k
    ).tokens[:, -1]

  logits = run(network, TOKENS[:1, :2], np.ones((1, 2), bool)).logits[0, -1]
  expected = np.asarray(jax.nn.softmax(logits / 1.5))
  drawn = program(jax.random.key(1), network)
  share = np.bincount(drawn, minlength=17) / 1000
  assert np.abs(share - expected).max() < 0.05
  few = program(jax.random.key(1), network, top_k=3)
  assert set(np.asarray(few)) <= set(np.argsort(expected)[-3:])
  many = program(jax.random.key(1), network, top_k=50)
  np.testing.assert_array_equal(many, drawn)


@pytest.mark.slow
def test_a_teacher_replaces_improbable_proposals():
  """Two thousand first tokens: kept proposals, and draws of the teacher."""
  student, prompts = model(), np.tile(TOKENS[:1, :2], (2000, 1))
  teacher = nets.Decoder(
    dataclasses.replace(CONFIG, depth=1, windowed=None), rngs=nnx.Rngs(5)
  )

  @functools.partial(jax.jit, static_argnames=("accepted", "count"))
  def program(key, student, teacher, accepted, count=1):
    return nets.generate(
      key,
      student,
      prompts,
      teacher=teacher,
      num_tokens=count,
      accepted=accepted,
    )

  ones = np.ones((1, 2), bool)
  pair = [
    np.asarray(jax.nn.softmax(run(x, TOKENS[:1, :2], ones).logits[0, -1]))
    for x in (student, teacher)
  ]
  for accepted in (1, 4):
    kept = pair[1] >= np.sort(pair[1])[-accepted]
    rejected = pair[0][~kept].sum()
    expected = np.where(kept, pair[0], 0) + rejected * pair[1]
    written = program(jax.random.key(1), student, teacher, accepted)
    drawn = np.asarray(written.tokens[:, -1])
    share = np.bincount(drawn, minlength=17) / 2000
    assert np.abs(share - expected).max() < 0.04
    # A proposal has the student's probability, a draw the teacher's.
    logs = np.log(np.stack(pair))[:, drawn]
    gaps = np.abs(logs - np.asarray(written.log_probs[:, -1]))
    assert np.all(gaps.min(0) < 1e-5)
    assert np.all(gaps[1][~kept[drawn]] < 1e-5)
  # All tokens accepted: the student alone.
  alone = nets.generate(
    jax.random.key(1), student, prompts[:9], num_tokens=3
  ).tokens
  prompts = prompts[:9]
  both = program.__wrapped__(jax.random.key(1), student, teacher, 17, 3)
  np.testing.assert_array_equal(both.tokens, alone)


@pytest.mark.slow
def test_tokens_are_drawn_from_a_mixture_with_the_teacher():
  """Two thousand first tokens; MiniLLM keeps the student's probabilities."""
  student, prompts = model(), np.tile(TOKENS[:1, :2], (2000, 1))
  teacher = far_from_uniform(nets.Decoder(CONFIG, rngs=nnx.Rngs(5)))

  @jax.jit
  def program(key, student, teacher, share):
    return nets.generate(
      key,
      student,
      prompts,
      teacher=teacher,
      teacher_share=share,
      num_tokens=1,
    )

  ones = np.ones((1, 2), bool)
  own, other = (
    np.asarray(jax.nn.softmax(run(x, TOKENS[:1, :2], ones).logits[0, -1]))
    for x in (student, teacher)
  )
  for share in (0.0, 0.6, 1.0):
    written = program(jax.random.key(1), student, teacher, share)
    drawn = np.asarray(written.tokens[:, -1])
    found = np.bincount(drawn, minlength=17) / 2000
    expected = share * other + (1 - share) * own
    assert np.abs(found - expected).max() < 0.025
    close(written.log_probs[:, -1], np.log(own[drawn]))
  assert np.abs(own - other).max() > 0.07
  lost = program(jax.random.key(1), student, teacher, np.nan).log_probs[:, -1]
  assert np.all(np.isnan(lost))


@pytest.mark.slow
def test_the_head_gives_the_logits_of_the_fused_losses():
  labels, where = next_token_targets(TOKENS, attention_mask=MASK)

  @jax.jit
  def program(network):
    outputs = network(TOKENS, attention_mask=MASK)
    fused = linear_cross_entropy(
      outputs.embedding, network.head, labels, where=where
    )
    plain = jnp.where(where, cross_entropy(outputs.logits, labels), 0.0)
    return fused, plain

  close(*program(model()))


def test_wrong_inputs_are_named():
  network = model()
  larger = nnx.eval_shape(
    lambda: nets.Decoder(
      dataclasses.replace(CONFIG, vocab_size=18), rngs=nnx.Rngs(0)
    )
  )
  for call, error, text in (
    (lambda: network(TOKENS[0]), ValueError, "tokens has shape"),
    (lambda: network(TOKENS * 1.0), TypeError, "tokens has dtype"),
    (lambda: network(np.ones((1, 17), int)), ValueError, "at most 16"),
    (lambda: network({"image": TOKENS}), ValueError, "expected 'tokens'"),
    (
      lambda: network({"tokens": TOKENS, "labels": TOKENS}),
      ValueError,
      "entry 'labels'",
    ),
    (
      lambda: network(TOKENS, attention_mask=MASK[:1]),
      ValueError,
      "attention_mask has shape",
    ),
    (
      lambda: nets.generate(jax.random.key(0), network, TOKENS, num_tokens=11),
      ValueError,
      "num_tokens is 11",
    ),
    (
      lambda: nets.generate(
        jax.random.key(0), network, TOKENS, num_tokens=1, teacher_share=0.2
      ),
      ValueError,
      "expected a teacher and no top_k",
    ),
    (
      lambda: nets.generate(
        jax.random.key(0),
        network,
        TOKENS,
        teacher=network,
        num_tokens=1,
        teacher_share=2,
      ),
      ValueError,
      "teacher_share is 2",
    ),
    (
      lambda: nets.generate(
        jax.random.key(0), network, TOKENS, num_tokens=1, accepted=0
      ),
      ValueError,
      "accepted is 0",
    ),
    (
      lambda: nets.generate(
        jax.random.key(0), network, TOKENS, num_tokens=1, top_k=0
      ),
      ValueError,
      "top_k is 0",
    ),
    (
      lambda: nets.generate(
        jax.random.key(0), network, TOKENS, teacher=larger, num_tokens=1
      ),
      ValueError,
      "teacher has 18 tokens; expected 17",
    ),
    (
      lambda: dataclasses.replace(CONFIG, windowed=(True,)),
      ValueError,
      "windowed has 1 entries",
    ),
    (
      lambda: dataclasses.replace(CONFIG, window=None),
      ValueError,
      "window is None; expected a number of tokens",
    ),
    (
      lambda: dataclasses.replace(CONFIG, head_width=3),
      ValueError,
      "head_width is 3; expected an even number",
    ),
    (
      lambda: dataclasses.replace(CONFIG, rotary_scaling=("yarn", 1, 2, 3, 4)),
      ValueError,
      "rotary_scaling is .'yarn', 1, 2, 3, 4.; expected",
    ),
    (
      lambda: dataclasses.replace(CONFIG, positions="alibi"),
      ValueError,
      "positions is 'alibi'",
    ),
  ):
    with pytest.raises(error, match=text):
      call()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_a_mesh_of_eight_devices_equals_one(kind):
  """Texts over `data`, heads and vocabulary over `model`; with a cache too."""
  config = dataclasses.replace(
    CONFIG, vocab_size=20, width=16, num_heads=8, key_heads=4
  )
  network = far_from_uniform(nets.Decoder(config, rngs=nnx.Rngs(0)))
  tokens, mask = np.tile(TOKENS, (2, 1))[:4], np.tile(MASK, (2, 1))[:4]

  @jax.jit
  def program(network, tokens, mask):
    def loss(network):
      outputs = network(tokens, attention_mask=mask)
      log_probs = jax.nn.log_softmax(outputs.logits)
      return -jnp.mean(log_probs[..., 0]), outputs

    cache = network.init_cache(4, 7)
    cache = network(tokens, attention_mask=mask, cache=cache).cache
    cached = network(tokens[:, :1], cache=cache).logits
    values, gradients = nnx.value_and_grad(loss, has_aux=True)(network)
    return (values, cached), gradients

  expected = program(network, tokens, mask)
  types = (jax.sharding.AxisType[kind],) * 2
  mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=types)
  rules = ((r"norm\d?\.scale$", P()), *nets.SHARDING_RULES)
  nets.shard_parameters(network, mesh, rules)
  kernel = network.blocks[0].attention.query.kernel[...]
  assert kernel.sharding.spec == P(None, "model")
  rows = jax.sharding.NamedSharding(mesh, P("data"))
  with jax.set_mesh(mesh):
    got = program(network, *jax.device_put((tokens, mask), rows))
  assert got[0][0][1].logits.sharding.spec[0] == "data"
  largest = max(np.abs(x).max() for x in jax.tree.leaves(expected[1]))
  assert largest > 0.01
  for part, scale in ((0, None), (1, largest)):
    for a, b in zip(
      *(jax.tree.leaves(x[part]) for x in (got, expected)), strict=True
    ):
      atol = 1e-5 * (np.abs(b).max() if scale is None else scale)
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)
  # Tokens of the host, outside of the context of a mesh.
  close(program(network, tokens, mask)[0][1], expected[0][1])
  with pytest.raises(ValueError, match="names the axis 'rows'"):
    nets.shard_parameters(network, mesh, (("tokens", P("rows")),))


@pytest.mark.slow
def test_bfloat16_is_within_two_percent():
  wide = model()
  half = nets.Decoder(CONFIG, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  nnx.update(half, nnx.state(wide))
  logits = [run(x, TOKENS, MASK).logits for x in (half, wide)]
  assert logits[0].dtype == jnp.float32
  error = np.linalg.norm((logits[0] - logits[1])[MASK])
  assert error < 0.02 * np.linalg.norm(logits[1][MASK])
