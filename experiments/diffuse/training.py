"""Trains the classifier, the teacher and the students, all seeds at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.diffuse import methods
from experiments.diffuse import networks
from experiments.frame import networks as frame_networks
from experiments.frame import rounds
from kdjax import generation
from kdjax import metrics
from kdjax import training
from kdjax.ops import cross_entropy

# Noise levels of consistency distillation. The largest one is that of the
# teacher's first step nearly: images have deviation 1.
SMALLEST, LARGEST = 0.02, 80.0
CONSISTENCY_STEPS = (1, 2, 4)  # in which a consistency model samples
Loss = Callable[..., jax.Array]


class State(NamedTuple):
  """The arrays of a network in training."""

  params: Any
  average: Any  # of the parameters, where a method reads it
  optimizer: Any


class Results(NamedTuple):
  """Scores by method and number of steps, `[seeds]`."""

  agreement: dict[str, dict[int, np.ndarray]]
  distance: dict[str, dict[int, np.ndarray]]
  judged: np.ndarray  # the classifier's accuracy on test images, `[seeds]`
  real: np.ndarray  # the distance of test images to training images, `[seeds]`
  images: dict[str, np.ndarray]  # some samples of the first seed, by title


def train(job: Any) -> Results:
  """Trains all and measures the quality of samples."""
  config = job.config
  network = networks.denoiser(job)
  judge, judged = _train_classifier(job)
  score = _Judge(job, network, judge)
  start = jax.jit(jax.vmap(lambda key: network.init(key).params))
  teacher = _train(
    job,
    "teacher",
    _denoising_loss(job, network),
    start(rounds.seed_keys(config)),
    {},
    config.steps,
  ).params
  results = Results({}, {}, judged, score.real(), {})

  def keep(method: str, steps: int, params: Any) -> None:
    agreement, distance, images = score(method, steps, params)
    results.agreement.setdefault(method, {})[steps] = agreement
    results.distance.setdefault(method, {})[steps] = distance
    results.images[f"{methods.NAMES[method]}, {steps}"] = images

  counts = _halved(config.teacher_steps)
  for count in (config.teacher_steps, *counts):
    keep(methods.TEACHER, count, teacher)
  if methods.PROGRESSIVE in config.methods:
    params = teacher
    for count in counts:
      params = _train(
        job,
        f"progressive_{count}",
        _progressive_loss(job, network, count),
        params,  # a phase starts from its teacher, its optimizer anew
        params,
        config.phase_steps,
      ).params
      keep(methods.PROGRESSIVE, count, params)
  if methods.CONSISTENCY in config.methods:
    state = _train(
      job,
      "consistency",
      _consistency_loss(job, network),
      teacher,
      teacher,
      config.steps,
    )
    for count in CONSISTENCY_STEPS:
      keep(methods.CONSISTENCY, count, state.average)
  return results


def _halved(count: int) -> list[int]:
  """Half the steps, a quarter and so on, down to 1."""
  return [count >> i for i in range(1, count.bit_length())]


def _denoising_loss(job: Any, network: training.Network) -> Loss:
  """The teacher's loss, at times from 0 to 1."""

  def loss(params, average, frozen, x, labels, key):
    del average, frozen
    time_key, noise_key = jax.random.split(key)
    level = generation.cosine_log_snr(jax.random.uniform(time_key, len(x)))
    noise = jax.random.normal(noise_key, x.shape)
    z = generation.diffuse(x, noise, level)
    found = networks.denoise(network, params, labels)(z, level)
    return generation.diffusion_loss(found, x, level, weighting="v")

  return loss


def _progressive_loss(job: Any, network: training.Network, count: int) -> Loss:
  """The loss of a phase, whose student samples in `count` steps."""

  def loss(params, average, frozen, x, labels, key):
    del average
    step_key, noise_key = jax.random.split(key)
    step = jax.random.randint(step_key, len(x), 0, count)
    level = generation.cosine_log_snr((step + 1) / count)
    noise = jax.random.normal(noise_key, x.shape)
    z = generation.diffuse(x, noise, level)
    target = generation.progressive_distillation_target(
      networks.denoise(network, frozen, labels), z, step, num_steps=count
    )
    found = networks.denoise(network, params, labels)(z, level)
    return generation.diffusion_loss(found, target, level)

  return loss


def _consistency_loss(job: Any, network: training.Network) -> Loss:
  """The loss at neighbouring noise levels; the target is an average."""
  sigmas = generation.karras_noise_levels(
    job.config.levels, smallest=SMALLEST, largest=LARGEST
  )

  def loss(params, average, frozen, x, labels, key):
    level_key, noise_key = jax.random.split(key)
    index = jax.random.randint(level_key, len(x), 0, len(sigmas) - 1)
    now, after = sigmas[index], sigmas[index + 1]
    noisy = x + now[:, None] * jax.random.normal(noise_key, x.shape)
    student, target, teacher = (
      networks.consistency(network, p, labels, smallest)
      for p, smallest in (
        (params, SMALLEST),
        (average, SMALLEST),
        (frozen, 0.0),
      )
    )
    end = generation.consistency_target(teacher, target, noisy, now, after)
    return generation.consistency_loss(student(noisy, now), end, now)

  return loss


def _train(
  job: Any, stage: str, loss: Loss, params: Any, frozen: Any, steps: int
) -> State:
  """Trains networks of all seeds `[seeds, ...]` by a loss."""
  config, data = job.config, job.data
  rate = optax.linear_schedule(config.learning_rate, 0.0, steps)
  optimizer = optax.adam(rate)
  every, count = config.evaluate_every, len(data.train["label"])

  def update(state: State, frozen: Any, key: Any, data: Any) -> Any:
    rows_key, key = jax.random.split(key)
    rows = jax.random.randint(rows_key, config.batch_size, 0, count)
    x, labels = data["image"][rows], data["label"][rows]

    def mean(params):
      return jnp.mean(loss(params, state.average, frozen, x, labels, key))

    value, gradient = jax.value_and_grad(mean)(state.params)
    updates, moved = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    average = optax.incremental_update(
      params, state.average, 1 - config.target_decay
    )
    return State(params, average, moved), value

  @jax.jit
  def advance(states, frozen, keys, data, step):
    def of_seed(state, frozen, key):
      def one(state, i):
        return update(state, frozen, jax.random.fold_in(key, step + i), data)

      state, values = jax.lax.scan(one, state, jnp.arange(every))
      return state, jnp.mean(values)

    return jax.vmap(of_seed)(states, frozen, keys)

  keys = rounds.seed_keys(config, first=1000)

  def advance_round(step: int, state: State, history: Any) -> rounds.Round:
    del history
    state, values = advance(state, frozen, keys, data.train, step)
    values = jax.device_get(values)
    mean = float(values.mean())
    seen = {"loss": values.tolist()}
    return rounds.Round(state, seen, {"loss": mean}, f"loss {mean:.4f}")

  start = State(params, params, jax.vmap(optimizer.init)(params))
  state, _ = rounds.run(
    job, stage, start, advance_round, steps=steps, every=every
  )
  return state


def _train_classifier(job: Any) -> tuple[Any, np.ndarray]:
  """Trains the classifiers that judge; also their accuracy on test images."""
  config, data = job.config, job.data
  network = _classifier(job)

  def loss(params, average, frozen, x, labels, key):
    del average, frozen
    outputs, _ = network.forward(
      training.Variables(params, {}), x, train=True, key=key
    )
    return cross_entropy(outputs.logits, labels)

  start = jax.jit(jax.vmap(lambda key: network.init(key).params))
  keys = rounds.seed_keys(config, first=2000)
  steps = config.classifier_steps
  params = _train(job, "classifier", loss, start(keys), {}, steps).params

  @jax.jit
  @jax.vmap
  def accuracy(params):
    outputs, _ = network.forward(
      training.Variables(params, {}), data.test["image"], train=False, key=None
    )
    return jnp.mean(metrics.accuracy(outputs.logits, data.test["label"]))

  return params, np.asarray(accuracy(params))


def _classifier(job: Any) -> training.Network:
  """A perceptron on rows of pixels; its embedding is what is compared."""
  size = job.data.train["image"].shape[-1]
  network = frame_networks.make_network(
    "mlp",
    np.zeros((1, 1, size, 1)),
    job.data.classes,
    statistics=(np.zeros(1), np.ones(1)),
    hidden=(128, 64),
  )

  def forward(variables, rows, **options):
    return network.forward(variables, rows[:, None, :, None], **options)

  return training.Network(network.init, forward)


class _Judge:
  """Scores of samples by the classifier of each seed."""

  def __init__(self, job: Any, network: training.Network, judge: Any):
    self.job, self.network, self.judge = job, network, judge
    self.classifier = _classifier(job)
    self.labels = jnp.arange(job.config.samples) % job.data.classes
    self.keys = rounds.seed_keys(job.config, first=3000)

  def _features(self, judge: Any, x: Any) -> Any:
    variables = training.Variables(judge, {})
    return self.classifier.forward(variables, x, train=False, key=None)[0]

  def real(self) -> np.ndarray:
    """The distance of test images to training images, `[seeds]`."""

    @jax.jit
    @jax.vmap
    def distance(judge):
      rows = (self.job.data.train["image"], self.job.data.test["image"])
      return metrics.frechet_distance(
        *(self._features(judge, x).embedding for x in rows)
      )

    return np.asarray(distance(self.judge))

  def __call__(self, method: str, steps: int, params: Any) -> Any:
    """Agreement and distance `[seeds]`, and ten images of the first seed."""
    sample = _sampler(self.job, self.network, method, steps)

    @jax.jit
    @jax.vmap
    def score(params, judge, key):
      x = sample(params, self.labels, key)
      outputs = self._features(judge, x)
      real = self._features(judge, self.job.data.train["image"])
      return (
        jnp.mean(metrics.accuracy(outputs.logits, self.labels)),
        metrics.frechet_distance(outputs.embedding, real.embedding),
        x[: self.job.data.classes],
      )

    found = jax.device_get(score(params, self.judge, self.keys))
    return found[0], found[1], found[2][0]


def _sampler(
  job: Any, network: training.Network, method: str, steps: int
) -> Any:
  """`(params, labels, key) -> images` of one seed."""
  shape = job.config.samples, job.data.train["image"].shape[-1]

  def sample(params, labels, key):
    noise_key, key = jax.random.split(key)
    noise = jax.random.normal(noise_key, shape)
    if method != methods.CONSISTENCY:
      return generation.ddim_sample(
        networks.denoise(network, params, labels), noise, num_steps=steps
      )
    sigmas = generation.karras_noise_levels(
      steps + 1, smallest=SMALLEST, largest=LARGEST
    )[:-1]
    function = networks.consistency(network, params, labels, SMALLEST)
    return generation.consistency_sample(
      key, function, noise, sigmas, smallest=SMALLEST
    )

  return sample
