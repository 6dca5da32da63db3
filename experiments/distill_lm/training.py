"""Trains the teacher and all students of a method, as one program each."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.distill_lm.methods import METHODS, known_method
from experiments.distill_lm.networks import Language, start
from experiments.frame import rounds
from kdjax import language, nets, training
from kdjax.ops import cross_entropy, masked_mean

AT_ONCE = 25  # windows that are evaluated at once
WRITTEN_AT_ONCE = 250  # texts that the teacher writes at once


class Trained(NamedTuple):
  """The students of a method."""

  params: Any  # `[seeds, ...]`, of the chosen learning rate
  rate: float  # chosen by validation documents
  validation: np.ndarray  # bits per character `[rounds, seeds]`
  seconds: np.ndarray  # of training one student `[rounds]`


class Source(NamedTuple):
  """The texts of a step."""

  corpus: Any  # `[tokens]`
  written: Any  # by the teacher, `[texts, length]`; may be empty


def train_teacher(job: Any) -> Any:
  """The parameters of the teacher, trained here or read from a folder."""
  config = job.config
  key = jax.random.fold_in(jax.random.key(config.seed), 2**20)
  variables = start(job.teacher, key[None])
  if not config.teacher:
    trained = train(
      job,
      "teacher",
      job.teacher,
      variables,
      None,
      Source(job.data.train, jnp.zeros((0, config.length), jnp.int32)),
      rates=(config.teacher_learning_rate,),
      keys=key[None],
      steps=config.teacher_steps,
    )
    variables = variables._replace(params=trained.params)
  return jax.tree.map(lambda x: x[0], variables.params)


def train_students(
  job: Any, teacher: Any, source: Source
) -> dict[str, Trained]:
  """Trains the students of all methods, cross-entropy alone first."""
  config, trained = job.config, {}
  keys = rounds.seed_keys(config)
  starts = {"random": start(job.student, keys)}
  if any(METHODS[name].start == "copied" for name in job.methods):
    starts["copied"] = start(job.student, keys, (job.teacher, teacher))
  model = training.Model(
    job.teacher.network.forward, training.Variables(teacher, {})
  )
  for name in job.methods:
    trained[name] = train(
      job,
      name,
      job.student,
      starts[METHODS[name].start],
      model if METHODS[name].taught else None,
      source,
      rates=config.learning_rates,
      keys=keys,
      steps=config.steps * METHODS[name].longer,
    )
  return trained


def train(
  job: Any,
  stage: str,
  student: Language,
  variables: training.Variables,
  teacher: training.Model | None,
  source: Source,
  *,
  rates: tuple[float, ...],
  keys: jax.Array,
  steps: int,
) -> Trained:
  """Trains a student for each seed and each rate; `stage` is the method."""
  config, count = job.config, len(rates)
  method = "scratch" if stage == "teacher" else stage
  program = make_program(job, method, student, teacher, steps)
  keys, variables = jax.tree.map(
    lambda x: jnp.repeat(x, count, 0), (keys, variables)
  )
  scale = jnp.tile(jnp.asarray(rates, jnp.float32), len(keys) // count)
  frozen = {"teacher": teacher.variables} if teacher else {}
  state = program.start(variables, keys, scale)
  compiled: list[Any] = []  # by the first round: a finished stage needs none

  def advance(step: int, state: Any, history: list[Any]) -> rounds.Round:
    del history
    inputs = keys, scale, frozen, source, jnp.int32(step)
    if not compiled:
      lowered = jax.jit(program.advance).lower(state, *inputs)
      compiled.append(lowered.compile())
    begin = time.perf_counter()
    state = jax.block_until_ready(compiled[0](state, *inputs))
    seconds = (time.perf_counter() - begin) / len(keys)
    nats = job.score[student](state.params["student"], job.data.validation)
    bits = np.asarray(nats) / math.log(2) / job.data.validation_characters
    return rounds.Round(
      state,
      {"bits": bits.tolist(), "seconds": seconds},
      {"bits": bits.mean()},
      f"validation {bits.mean():.3f} bits per character",
    )

  state, history = rounds.run(
    job, stage, state, advance, steps=steps, every=config.evaluate_every
  )
  seen = rounds.stack_history(history)
  bits = seen["bits"].reshape(len(history), -1, count)
  best = int(np.nanargmin(bits[-1].mean(0))) if count > 1 else 0
  params = jax.tree.map(lambda x: x[best::count], state.params["student"])
  return Trained(params, rates[best], bits[..., best], seen["seconds"])


class Program(NamedTuple):
  """The functions of a method."""

  start: Callable[..., training.TrainState]  # of variables, keys and rates
  # (states, keys, rates, frozen, source, first) -> states, a round later.
  advance: Callable[..., training.TrainState]


def make_program(
  job: Any,
  method: str,
  student: Language,
  teacher: training.Model | None,
  steps: int,
) -> Program:
  """Makes the program of a method."""
  config, row = job.config, METHODS[method]
  forward, views = student.network.forward, {}
  if row.text == "pair":
    views["on_policy"] = lambda key, batch: batch["on_policy_tokens"]

  def learner_of(variables: Any, rate: Any) -> training.Learner:
    # Clipping bounds the update by a batch whose gradient is unusually large.
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adam(optax.cosine_decay_schedule(rate, steps)),
    )
    whole = known_method(
      method, job.teacher, job.student, min(config.known, job.vocabulary)
    )
    return training.distill(
      training.Model(forward, variables),
      teacher,
      whole,
      optimizer,
      on="tokens",
      views=views,
    )

  def read(key: jax.Array, source: Source) -> jax.Array:
    """Windows of the corpus, drawn with replacement."""
    starts = jax.random.randint(
      key, (config.batch_size, 1), 0, len(source.corpus) - config.length + 1
    )
    return source.corpus[starts + jnp.arange(config.length)[None]]

  def batch_of(
    key: jax.Array, number: Any, params: Any, frozen: Any, source: Source
  ) -> dict[str, jax.Array]:
    keys = jax.random.split(key)
    tokens = read(keys[0], source)
    if row.text in ("teacher", "pair"):
      place = jax.random.randint(
        keys[0], (config.batch_size,), 0, len(source.written)
      )
      tokens = source.written[place]
    if row.text == "own":
      tokens = jax.lax.cond(
        has_own_text(number, config.own_share),
        lambda: write(keys[1], job, student, params, tokens),
        lambda: tokens,
      )
    if row.text == "both":
      checking = job.teacher, frozen["teacher"].params
      tokens = write(keys[1], job, student, params, tokens, checking)
    labels, where = language.next_token_targets(tokens)
    batch = {"tokens": tokens, "label": labels, "mask": where}
    if row.text == "pair":
      own = write(keys[1], job, student, params, tokens)
      batch |= {"on_policy_tokens": own, "on_policy_mask": where}
    return batch

  def start_one(variables: Any, key: jax.Array, rate: jax.Array) -> Any:
    shape = config.batch_size, config.length
    texts = jax.ShapeDtypeStruct(shape, jnp.int32)
    spec = jax.eval_shape(
      batch_of,
      key,
      jnp.int32(0),
      variables.params,
      {"teacher": teacher.variables} if teacher else {},
      Source(jax.ShapeDtypeStruct(shape[1:], jnp.int32), texts),
    )
    return learner_of(variables, rate).init(jax.random.fold_in(key, 0), spec)

  def advance(
    states: Any, keys: Any, rates: Any, frozen: Any, source: Source, first: Any
  ) -> Any:
    def one(state: Any, key: Any, rate: Any) -> Any:
      learner = learner_of(state.student, rate)

      def step(state: Any, number: Any) -> Any:
        # The same windows under every method.
        batch_key, step_key = jax.random.split(
          jax.random.fold_in(jax.random.fold_in(key, 1), number)
        )
        params = state.params["student"]
        batch = batch_of(batch_key, number, params, frozen, source)
        state, _ = learner.step(state, frozen, batch, step_key, axis_name=None)
        return state, None

      numbers = first + jnp.arange(config.evaluate_every)
      return jax.lax.scan(step, state, numbers)[0]

    return training.sweep(one, shared=())(states, keys, rates)

  return Program(training.sweep(start_one, shared=()), advance)


def has_own_text(number: Any, share: float) -> jax.Array:
  """Whether a step reads the student's own text: a share, evenly spread.

  GKD draws this for each step with probability lambda; the steps of a share
  are the same for all seeds, which train together.
  """
  before, after = (jnp.floor(x * share) for x in (number, number + 1))
  return after > before


def write(
  key: jax.Array,
  job: Any,
  model: Language,
  params: Any,
  tokens: jax.Array,
  teacher: tuple[Language, Any] | None = None,
) -> jax.Array:
  """Lets a model go on after the first tokens of windows `[n, length]`.

  The first tokens stay, and count in the loss as the rest does. A step has the
  same number of tokens for written and for given texts. A teacher with its
  parameters replaces tokens that it finds improbable.
  """
  prompt, size = job.config.prompt, job.vocabulary
  return nets.generate(
    key,
    model.writer(params, size),
    tokens[:, :prompt],
    teacher=teacher and teacher[0].writer(teacher[1], size),
    num_tokens=job.config.length - prompt,
    accepted=job.config.known,
  ).tokens


def write_as_teacher(job: Any, params: Any) -> tuple[jax.Array, float]:
  """Texts of the teacher after the first tokens of windows; and the seconds."""
  config = job.config
  shape = math.ceil(config.teacher_texts / WRITTEN_AT_ONCE), WRITTEN_AT_ONCE
  if config.teacher_texts < WRITTEN_AT_ONCE:
    shape = 1, config.teacher_texts
  key = jax.random.fold_in(jax.random.key(config.seed), 2**20 + 1)

  @jax.jit
  def run(params: Any, corpus: jax.Array) -> jax.Array:
    def some(key: jax.Array) -> jax.Array:
      place_key, key = jax.random.split(key)
      starts = jax.random.randint(
        place_key, (shape[1], 1), 0, len(corpus) - config.length + 1
      )
      windows = corpus[starts + jnp.arange(config.length)[None]]
      return write(key, job, job.teacher, params, windows)

    return jax.lax.map(some, jax.random.split(key, shape[0]))

  begin = time.perf_counter()
  texts = jax.block_until_ready(run(params, job.data.train))
  texts = texts.reshape(-1, config.length)[: config.teacher_texts]
  return texts, time.perf_counter() - begin


def make_score(model: Language) -> Callable[..., jax.Array]:
  """Mean nats a token of windows `[n, length]`, for students `[students]`."""

  @jax.jit
  def score(params: Any, windows: jax.Array) -> jax.Array:
    def one(params: Any) -> jax.Array:
      def nats(window: jax.Array) -> tuple[jax.Array, jax.Array]:
        tokens = window[None]
        labels, where = language.next_token_targets(tokens)
        outputs, _ = model.network.forward(
          training.Variables(params, {}), tokens, train=False, key=None
        )
        return cross_entropy(outputs.logits, labels)[0], where[0]

      values, where = jax.lax.map(nats, windows, batch_size=AT_ONCE)
      return masked_mean(values, where)

    return jax.vmap(one)(params)

  return score


def make_reading(job: Any) -> Callable[..., jax.Array]:
  """Mean nats of written tokens `[students]` under the teacher."""
  config, teacher = job.config, job.teacher

  @jax.jit
  def nats(params: Any, texts: jax.Array) -> jax.Array:
    students, count, length = texts.shape
    tokens = texts.reshape(-1, length)
    own = jnp.broadcast_to(
      jnp.arange(length)[None] >= config.prompt, tokens.shape
    )
    labels, where = language.next_token_targets(tokens, own)
    outputs, _ = teacher.network.forward(
      training.Variables(params, {}), tokens, train=False, key=None
    )
    values = cross_entropy(outputs.logits, labels)
    values, where = (
      x.reshape(students, count, length) for x in (values, where)
    )
    return jax.vmap(masked_mean)(values, where)

  return nats


def make_samples(job: Any, model: Language) -> Callable[..., jax.Array]:
  """Texts of students `[students]` after the beginnings of test windows."""

  @jax.jit
  def sample(params: Any, windows: jax.Array) -> jax.Array:
    key = jax.random.key(job.config.seed)
    return jax.vmap(lambda x: write(key, job, model, x, windows))(params)

  return sample


def paces(job: Any, trained: dict[str, Trained]) -> dict[str, float]:
  """Seconds of a step of one student, in the fastest round of each program.

  Methods of the same loss and text, which differ in their start or their
  number of steps, run the same program.
  """
  fastest: list[tuple[Any, float]] = []
  for name, x in trained.items():
    # Other programs on the machine only add to it.
    seconds = float(x.seconds.min()) / job.config.evaluate_every
    fastest.append((METHODS[name].program, seconds))
  return {
    name: min(x for program, x in fastest if program == METHODS[name].program)
    for name in trained
  }
