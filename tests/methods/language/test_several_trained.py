"""Every method of language trains: its loss falls, over many steps.

The text is a Markov chain of seven tokens. A teacher has learned it; students
of the methods without labels can know of it only by the teacher. Own text is
written inside the step, by the student as it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import language, methods, nets, training
from kdjax.ops import kl_divergence, masked_mean
from tests.methods import learners

STEPS, BATCH, LENGTH, VOCAB = 150, 16, 12, learners.VOCAB
NAMES = methods.names("language")
TEXTS = {
  "minillm": "mixed",  # with the teacher's tokens, as the method's weights
  "on_policy_distillation": "own",
}
# Are measured by their own loss: they teach no prediction, or labels that an
# encoder sees, which this teacher contradicts.
OWN_LOSS = ("minilm", "minilm_v2", "pkd", "distilbert")
# The share of the first loss, or of the first divergence, that may be left.
LEFT = dict.fromkeys(NAMES, 0.5) | {"distilbert": 0.75}


def draw_text(key):
  """Texts of a chain in which a token has two likely followers."""
  first = jax.random.randint(key, (BATCH,), 0, VOCAB)
  coins = jax.random.uniform(jax.random.fold_in(key, 1), (LENGTH - 1, BATCH))

  def step(token, coin):
    following = jnp.where(coin < 0.7, 3 * token + 1, token + 2) % VOCAB
    return following, following

  return jnp.vstack([first[None], jax.lax.scan(step, first, coins)[1]]).T


def batch_of(tokens, own=None, log_probs=None):
  """A batch in which both networks read one text."""
  mask = jnp.ones(tokens.shape, bool)
  labels, where = language.next_token_targets(tokens)
  batch = {"tokens": tokens, "attention_mask": mask}
  batch |= {"label": labels, "mask": where}
  batch |= {f"teacher_{k}": batch[k] for k in ("tokens", "label", "mask")}
  if own is not None:
    batch |= {"on_policy_tokens": own, "on_policy_mask": where}
  if log_probs is not None:
    batch["sampling_log_prob"] = language.next_token_log_probs(log_probs)
  return batch


def decoder(depth):
  config = nets.DecoderConfig(
    VOCAB, width=12, depth=depth, num_heads=2, inner_width=16
  )
  return lambda rngs: nets.Decoder(config, rngs=rngs)


def write(key, prompts, student, teacher=None):
  """Text of the student as it is, by the cache of keys and values."""

  def module(depth, params):
    graph, _ = nnx.split(nnx.eval_shape(lambda: decoder(depth)(nnx.Rngs(0))))
    return nnx.merge(graph, params)

  return nets.generate(
    key,
    module(1, student),
    prompts,
    teacher=None if teacher is None else module(2, teacher),
    teacher_share=None if teacher is None else 0.2,
    num_tokens=LENGTH - 1,
  )


def train(learner, text="corpus", steps=STEPS):
  """The first and the last state, and the losses of all steps."""
  key = jax.random.key(5)
  state = learner.init(key, batch_of(draw_text(key), draw_text(key)))

  @jax.jit
  def run(state, frozen):
    def step(state, key):
      text_key, own_key, key = jax.random.split(key, 3)
      tokens = own = draw_text(text_key)
      log_probs = None
      if text != "corpus":
        teacher = frozen["teacher"].params if text == "mixed" else None
        student = state.params["student"]
        written = write(own_key, tokens[:, :1], student, teacher)
        own = written.tokens
      if text in ("own", "mixed"):
        tokens, log_probs = own, written.log_probs
      batch = batch_of(tokens, own, log_probs)
      state, seen = learner.step(state, frozen, batch, key)
      return state, training.mean_metrics(seen)["loss"]

    return jax.lax.scan(step, state, jax.random.split(key, steps))

  return state, *run(state, learner.frozen)


@pytest.fixture(scope="module")
def teacher():
  """A decoder that has learned the chain."""
  learner = training.distill(
    training.Network.of(decoder(2)),
    None,
    methods.create("scratch"),
    optax.adam(1e-2),
    on=("tokens", "attention_mask"),
  )
  _, state, losses = train(learner)
  # The chain's own entropy is 0.61 nats; the first token of two is a guess.
  assert losses[-10:].mean() < 0.8
  forward = training.Network.of(decoder(2)).forward
  return training.Model(forward, state.student)


def encoder_of(scale):
  """An encoder whose attention and predictions are far from uniform."""
  made = learners.text_network(4, encoder=True)
  variables = made.init(jax.random.key(7))
  params = jax.tree.map(
    lambda x: scale * x if x.ndim > 1 else x, variables.params
  )
  return training.Model(made.forward, variables._replace(params=params))


def divergence(teacher, student, forward):
  """From the teacher to the student, on text that nobody has seen."""
  batch = batch_of(draw_text(jax.random.key(99)))
  inputs = {k: batch[k] for k in ("tokens", "attention_mask")}
  ours, theirs = (
    run(x, inputs, train=False, key=None)[0].logits
    for run, x in (
      (forward, student),
      (teacher.forward, teacher.variables),
    )
  )
  return float(masked_mean(kl_divergence(ours, theirs), batch["mask"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_method_trains(name, teacher):
  row = methods.describe(name)
  encoded = name in learners.ENCODED
  student = learners.text_network(2, encoder=True)
  if not encoded:
    student = training.Network.of(decoder(1))
  frozen = encoder_of(6.0) if encoded else teacher
  apart = name in ("uld", "dskd_cma")
  method = learners.method_of(name)
  views = method.needs.views
  on = ("tokens", "attention_mask")
  learner = training.distill(
    student,
    frozen if row.networks else None,
    method,
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    on={"student": on, "teacher": "teacher_tokens"} if apart else on,
    views={x: lambda key, batch: batch["on_policy_tokens"] for x in views},
  )
  text = TEXTS.get(name, "beside" if views else "corpus")
  before, after, losses = train(learner, text)
  assert np.all(np.isfinite(losses))
  if name in OWN_LOSS:
    first, last = losses[:5].mean(), losses[-10:].mean()
  else:
    # A loss may include the teacher's entropy, or be no distance at all.
    first, last = (
      divergence(frozen, x.student, student.forward) for x in (before, after)
    )
  assert last < LEFT[name] * first
