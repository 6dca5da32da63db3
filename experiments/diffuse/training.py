"""Trains the classifier, the teacher and the students, all seeds at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.diffuse import methods, networks
from experiments.frame import networks as frame_networks
from experiments.frame import rounds
from kdjax import generation, metrics, training
from kdjax.ops import cross_entropy

# Noise levels of consistency distillation. At the largest one nearly nothing of
# an image is left: images have deviation 1.
SMALLEST, LARGEST = 0.02, 80.0
CONSISTENCY_STEPS = (1, 2)  # in which a consistency model samples
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
  teach = _trainer(job, _denoising_loss(network), config.steps)
  first = start(rounds.seed_keys(config))
  teacher = teach("teacher", first, {}).params
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
    halve = _trainer(job, _progressive_loss(network), config.phase_steps)
    params = teacher
    for count in counts:
      # A phase starts from its teacher's weights, its optimizer anew.
      params = halve(f"progressive_{count}", params, params, count).params
      keep(methods.PROGRESSIVE, count, params)
  if methods.CONSISTENCY in config.methods:
    learn = _trainer(job, _consistency_loss(job, network), config.steps)
    average = learn("consistency", teacher, teacher).average
    for count in CONSISTENCY_STEPS:
      keep(methods.CONSISTENCY, count, average)
  return results


def _halved(count: int) -> list[int]:
  """Half the steps, a quarter and so on, down to 1."""
  return [count >> i for i in range(1, count.bit_length())]


def _denoising_loss(network: training.Network) -> Loss:
  """The teacher's loss, at times from 0 to 1."""

  def loss(params, average, frozen, count, x, labels, key):
    del average, frozen, count
    time_key, noise_key = jax.random.split(key)
    level = generation.cosine_log_snr(jax.random.uniform(time_key, x.shape[:1]))
    noise = jax.random.normal(noise_key, x.shape)
    z = generation.diffuse(x, noise, level)
    found = networks.denoise(network, params, labels)(z, level)
    return generation.diffusion_loss(found, x, level, weighting="v")

  return loss


def _progressive_loss(network: training.Network) -> Loss:
  """The loss of a phase, whose student samples in `count` steps."""

  def loss(params, average, frozen, count, x, labels, key):
    del average
    step_key, noise_key = jax.random.split(key)
    step = jax.random.randint(step_key, x.shape[:1], 0, count)
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

  def loss(params, average, frozen, count, x, labels, key):
    del count
    level_key, noise_key = jax.random.split(key)
    index = jax.random.randint(level_key, x.shape[:1], 0, len(sigmas) - 1)
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


def _trainer(job: Any, loss: Loss, steps: int) -> Callable[..., State]:
  """`(stage, params, frozen, count) -> state`, all seeds `[seeds, ...]`.

  All stages of a loss are one program.
  """
  config, data = job.config, job.data
  optimizer = optax.adam(
    optax.linear_schedule(config.learning_rate, 0.0, steps)
  )
  every, examples = config.evaluate_every, len(data.train["label"])

  def update(state, frozen, count, data, key):
    rows_key, key = jax.random.split(key)
    rows = jax.random.randint(rows_key, config.batch_size, 0, examples)
    x, labels = data["image"][rows], data["label"][rows]

    def mean(params):
      values = loss(params, state.average, frozen, count, x, labels, key)
      return jnp.mean(values)

    value, gradient = jax.value_and_grad(mean)(state.params)
    updates, moved = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    average = optax.incremental_update(
      params, state.average, 1 - config.target_decay
    )
    return State(params, average, moved), value

  @jax.jit
  def advance(states, frozen, count, keys, data, step):
    def of_seed(state, frozen, key):
      def one(state, i):
        step_key = jax.random.fold_in(key, step + i)
        return update(state, frozen, count, data, step_key)

      state, values = jax.lax.scan(one, state, jnp.arange(every))
      return state, jnp.mean(values)

    return jax.vmap(of_seed)(states, frozen, keys)

  begin = jax.jit(jax.vmap(optimizer.init))
  keys = rounds.seed_keys(config, first=1000)

  def run(stage: str, params: Any, frozen: Any, count: int = 1) -> State:
    def advance_round(step: int, state: State, history: Any) -> rounds.Round:
      del history
      known = frozen, jnp.asarray(count), keys, data.train, step
      state, values = advance(state, *known)
      values = jax.device_get(values)
      mean = float(values.mean())
      seen = {"loss": values.tolist()}
      return rounds.Round(state, seen, {"loss": mean}, f"loss {mean:.4f}")

    start = State(params, params, begin(params))
    state, _ = rounds.run(
      job, stage, start, advance_round, steps=steps, every=every
    )
    return state

  return run


def _train_classifier(job: Any) -> tuple[Any, np.ndarray]:
  """Trains the classifiers that judge; also their accuracy on test images."""
  config, data = job.config, job.data
  network = _classifier(job)

  def loss(params, average, frozen, count, x, labels, key):
    del average, frozen, count
    outputs, _ = network.forward(
      training.Variables(params, {}), x, train=True, key=key
    )
    return cross_entropy(outputs.logits, labels)

  start = jax.jit(jax.vmap(lambda key: network.init(key).params))
  keys = rounds.seed_keys(config, first=2000)
  train_judge = _trainer(job, loss, config.classifier_steps)
  params = train_judge("classifier", start(keys), {}).params

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

  def forward(
    variables: training.Variables,
    inputs: Any,
    *,
    train: bool,
    key: jax.Array | None,
  ) -> Any:
    images = inputs[:, None, :, None]
    return network.forward(variables, images, train=train, key=key)

  return training.Network(network.init, forward)


class _Judge:
  """Scores of samples by the classifier of each seed."""

  def __init__(self, job: Any, network: training.Network, judge: Any):
    self.job, self.network, self.judge = job, network, judge
    self.classifier = _classifier(job)
    self.labels = jnp.arange(job.config.samples) % job.data.classes
    self.keys = rounds.seed_keys(job.config, first=3000)
    self._by_ddim = self._scores(self._ddim)

  def real(self) -> np.ndarray:
    """The distance of test images to training images, `[seeds]`."""

    @jax.jit
    @jax.vmap
    def distance(judge):
      rows = (self.job.data.train["image"], self.job.data.test["image"])
      return metrics.frechet_distance(
        *(self._outputs(judge, x).embedding for x in rows)
      )

    return np.asarray(distance(self.judge))

  def __call__(self, method: str, steps: int, params: Any) -> Any:
    """Agreement and distance `[seeds]`, and images of the first seed."""
    score = self._by_ddim
    if method == methods.CONSISTENCY:
      sigmas = generation.karras_noise_levels(
        steps + 1, smallest=SMALLEST, largest=LARGEST
      )[:-1]
      score = self._scores(self._consistently(sigmas))
    found = score(params, self.judge, self.keys, jnp.asarray(steps))
    agreement, distance, images = jax.device_get(found)
    return agreement, distance, images[0]

  def _outputs(self, judge: Any, x: Any) -> Any:
    variables = training.Variables(judge, {})
    return self.classifier.forward(variables, x, train=False, key=None)[0]

  def _scores(self, sample: Callable[..., Any]) -> Callable[..., Any]:
    """`(params, judge, keys, steps) -> scores`, compiled."""
    shape = self.job.config.samples, self.job.data.train["image"].shape[-1]

    def of_seed(params, judge, key, steps):
      noise_key, key = jax.random.split(key)
      x = sample(params, jax.random.normal(noise_key, shape), key, steps)
      outputs = self._outputs(judge, x)
      real = self._outputs(judge, self.job.data.train["image"])
      return (
        jnp.mean(metrics.accuracy(outputs.logits, self.labels)),
        metrics.frechet_distance(outputs.embedding, real.embedding),
        x[: self.job.data.classes],
      )

    return jax.jit(jax.vmap(of_seed, (0, 0, 0, None)))

  def _ddim(self, params: Any, noise: Any, key: Any, steps: Any) -> Any:
    del key
    function = networks.denoise(self.network, params, self.labels)
    return generation.ddim_sample(function, noise, num_steps=steps)

  def _consistently(self, sigmas: Any) -> Callable[..., Any]:
    def sample(params, noise, key, steps):
      del steps
      function = networks.consistency(
        self.network, params, self.labels, SMALLEST
      )
      return generation.consistency_sample(
        key, function, noise, sigmas, smallest=SMALLEST
      )

    return sample
