"""The losses of the methods of generalization."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.generalize.networks import Network
from experiments.generalize.networks import init_linear
from experiments.generalize.networks import linear
from kdjax import data as kdata
from kdjax import generalization

cross_entropy = optax.softmax_cross_entropy_with_integer_labels
held = jax.lax.stop_gradient


class Setting(NamedTuple):
  """The sizes that a method's parameters and state depend on."""

  network: Network
  judge: Network  # the same, to tell the domains apart
  domains: int
  classes: int
  width: int  # of the embedding
  shape: tuple[int, int, int]  # of an image


class Lesson(NamedTuple):
  """The inputs of a step besides the parameters."""

  network: Network
  judge: Network
  images: jax.Array  # [domains, batch, height, width, channels] in [0, 1]
  labels: jax.Array  # [domains, batch]
  learning_rate: jax.Array
  weight: jax.Array  # what is swept of the method
  state: Any  # the method's own
  key: jax.Array


class Seen(NamedTuple):
  """The network's outputs for a batch, `[domains, batch, ...]`."""

  embeddings: jax.Array
  logits: jax.Array
  labels: jax.Array
  losses: jax.Array  # [domains]


def flat(values: jax.Array) -> jax.Array:
  """Domains one after the other."""
  return values.reshape(-1, *values.shape[2:])


def ids(lesson: Lesson) -> jax.Array:
  """The domain of each image of a flat batch."""
  domains, batch = lesson.labels.shape
  return jnp.repeat(jnp.arange(domains), batch)


def look(params: Any, lesson: Lesson) -> Seen:
  """One forward pass for all domains."""
  labels = lesson.labels
  embeddings = lesson.network.embed(params["network"], flat(lesson.images))
  embeddings = embeddings.reshape(*labels.shape, -1)
  logits = linear(params["network"]["head"], embeddings)
  losses = generalization.domain_losses(cross_entropy(logits, labels))
  return Seen(embeddings, logits, labels, losses)


def mean_loss(network: Network, params: Any, batch: Any) -> jax.Array:
  """The mean cross-entropy of one domain's images and labels."""
  images, labels = batch
  logits = network.logits(params["network"], images)
  return jnp.mean(cross_entropy(logits, labels))


def erm(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """The mean loss: the yardstick of all."""
  return jnp.mean(look(params, lesson).losses), lesson.state


def penalized(penalty: Callable[[Seen], jax.Array]):
  """The mean loss and a penalty."""

  def loss(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
    seen = look(params, lesson)
    value = jnp.mean(seen.losses) + lesson.weight * penalty(seen)
    return value, lesson.state

  return loss


def irm(seen: Seen) -> jax.Array:
  """No classifier of another scale is better in any domain."""
  return jnp.mean(generalization.irm_penalty(seen.logits, seen.labels))


def vrex(seen: Seen) -> jax.Array:
  """The domains' losses are equal."""
  return generalization.vrex_penalty(seen.losses)


def sd(seen: Seen) -> jax.Array:
  """Logits are small."""
  return jnp.mean(generalization.sd_penalty(seen.logits))


def coral(seen: Seen) -> jax.Array:
  """Means and covariances of embeddings are equal."""
  return generalization.coral(seen.embeddings)


def mmd(seen: Seen) -> jax.Array:
  """Distributions of embeddings are equal."""
  return generalization.mmd(seen.embeddings)


def group_dro(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """The worst domains weigh most."""
  losses = look(params, lesson).losses
  return generalization.group_dro(losses, lesson.state, lesson.weight)


def init_group_dro(key: jax.Array, setting: Setting) -> tuple[Any, Any]:
  """Equal weights."""
  del key
  return {}, jnp.ones(setting.domains) / setting.domains


def fishr(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """The classifier's gradients vary equally in all domains."""
  seen = look(params, lesson)
  penalty, state = generalization.fishr_penalty(*seen[:3], lesson.state)
  return jnp.mean(seen.losses) + lesson.weight * penalty, state


def init_fishr(key: jax.Array, setting: Setting) -> tuple[Any, Any]:
  """Moving averages of 0."""
  del key
  shape = setting.domains, setting.classes, setting.width
  return {}, generalization.fishr_init(*shape)


def rsc(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """The features that the classifier leans on most are muted."""
  features, labels = flat(look(params, lesson).embeddings), flat(lesson.labels)

  def classify(features: jax.Array) -> jax.Array:
    return linear(params["network"]["head"], features)

  mask = generalization.rsc_mask(
    classify,
    features,
    labels,
    feature_drop=lesson.weight,
    batch_drop=lesson.weight,
  )
  losses = cross_entropy(classify(features * mask), labels)
  return jnp.mean(losses), lesson.state


def mixup(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """Whole domains are mixed in pairs."""
  mixed = generalization.mixup(
    lesson.key, lesson.images, lesson.labels, alpha=lesson.weight
  )
  seen = look(params, lesson._replace(images=mixed.inputs))
  return jnp.mean(generalization.mixed_loss(seen.logits, *mixed[1:4])), (
    lesson.state
  )


def domainmix(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """Images are mixed with images of other domains."""
  mixed = generalization.domainmix(
    lesson.key,
    flat(lesson.images),
    flat(lesson.labels),
    ids(lesson),
    alpha=lesson.weight,
    beta=lesson.weight,
  )
  logits = lesson.network.logits(params["network"], mixed.inputs)
  return jnp.mean(generalization.mixed_loss(logits, *mixed[1:4])), lesson.state


def mixed_styles(mix: Callable[..., jax.Array]):
  """The first maps take statistics of other domains' maps.

  An MLP has no maps: there it is the images that do.
  """

  def loss(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
    network, inner = lesson.network, params["network"]
    maps = mix(
      lesson.key,
      network.stem(inner, flat(lesson.images)),
      alpha=lesson.weight,
      mix="crossdomain",
      domains=ids(lesson),
    )
    logits = linear(inner["head"], network.body(inner, maps))
    return jnp.mean(cross_entropy(logits, flat(lesson.labels))), lesson.state

  return loss


def sagnet(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """Content tells the class, and style does not.

  DomainBed makes three steps with three Adams of what is one step here.
  """
  features, labels = flat(look(params, lesson).embeddings), flat(lesson.labels)
  keys = jax.random.split(lesson.key, 3)
  swap = generalization.sagnet_randomize
  content = linear(params["network"]["head"], swap(keys[0], features))
  style = linear(params["style"], swap(keys[1], held(features), part="content"))
  fooled = linear(
    held(params["style"]), swap(keys[2], features, part="content")
  )
  adversary = jnp.mean(generalization.sagnet_adversarial_loss(fooled))
  losses = cross_entropy(content, labels) + cross_entropy(style, labels)
  return jnp.mean(losses) + lesson.weight * adversary, lesson.state


def init_sagnet(key: jax.Array, setting: Setting) -> tuple[Any, Any]:
  """The style network."""
  return {"style": init_linear(key, setting.width, setting.classes)}, {}


def crossgrad(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """Each of two networks learns from images that the other's loss moved."""
  images, labels, domains = (
    flat(lesson.images),
    flat(lesson.labels),
    ids(lesson),
  )

  def label_losses(images: jax.Array) -> jax.Array:
    logits = lesson.network.logits(params["network"], images)
    return cross_entropy(logits, labels)

  def domain_losses(images: jax.Array) -> jax.Array:
    return cross_entropy(lesson.judge.logits(params["judge"], images), domains)

  total = jnp.zeros(())
  for learner, mover in (
    (label_losses, domain_losses),
    (domain_losses, label_losses),
  ):
    # Each image's own gradient: the mean's would move by next to nothing.
    moved = generalization.crossgrad(
      mover, images, epsilon=lesson.weight, scaling="sum"
    )
    total += jnp.mean(
      generalization.augmented_loss(learner(images), learner(moved))
    )
  return total, lesson.state


def init_crossgrad(key: jax.Array, setting: Setting) -> tuple[Any, Any]:
  """The network that tells the domains apart."""
  return {"judge": setting.judge.init(key)}, {}


def ddaig(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """A generator hides the domain and keeps the class."""
  images, labels, domains = (
    flat(lesson.images),
    flat(lesson.labels),
    ids(lesson),
  )
  hidden, output = params["generator"]
  change = jax.nn.relu(linear(hidden, images.reshape(len(images), -1)))
  change = jnp.tanh(linear(output, change)).reshape(images.shape)
  moved = generalization.ddaig(images, change, weight=lesson.weight)

  def label_logits(inner: Any, images: jax.Array) -> jax.Array:
    return lesson.network.logits(inner, images)

  def domain_logits(inner: Any, images: jax.Array) -> jax.Array:
    return lesson.judge.logits(inner, images)

  generator = generalization.ddaig_generator_loss(
    label_logits(held(params["network"]), moved),
    labels,
    domain_logits(held(params["judge"]), moved),
    domains,
  )
  student = generalization.augmented_loss(
    cross_entropy(label_logits(params["network"], images), labels),
    cross_entropy(label_logits(params["network"], held(moved)), labels),
  )
  judge = cross_entropy(domain_logits(params["judge"], images), domains)
  return jnp.mean(generator + student + judge), lesson.state


def init_ddaig(key: jax.Array, setting: Setting) -> tuple[Any, Any]:
  """The network that tells the domains apart, and the generator."""
  keys = jax.random.split(key, 3)
  pixels = math.prod(setting.shape)
  generator = (
    init_linear(keys[1], pixels, setting.width),
    init_linear(keys[2], setting.width, pixels),
  )
  return {"judge": setting.judge.init(keys[0]), "generator": generator}, {}


def dael(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """The other domains' experts agree with the own one, on harder images.

  Images are shifted by up to an eighth of their side, and a square of a
  quarter of it is blackened.
  """
  keys = jax.random.split(lesson.key)
  side = lesson.images.shape[2]
  harder = kdata.random_crop(keys[0], flat(lesson.images), padding=side // 8)
  harder = kdata.cutout(keys[1], harder, size=side // 4)
  harder = harder.reshape(lesson.images.shape)

  def answers(images: jax.Array) -> jax.Array:
    """`[experts, domains, batch, classes]`."""
    seen = look(params, lesson._replace(images=images))
    return jax.vmap(linear, (0, None))(params["experts"], seen.embeddings)

  domains = jnp.arange(len(lesson.labels))
  own = answers(lesson.images)[domains, domains]
  others = jnp.swapaxes(answers(harder), 0, 1)
  expert = generalization.dael_expert_loss(own, lesson.labels)
  consistency = generalization.dael_consistency_loss(others, own)
  return jnp.mean(expert + lesson.weight * consistency), lesson.state


def init_dael(key: jax.Array, setting: Setting) -> tuple[Any, Any]:
  """An expert for each domain: a classifier of its own."""
  keys = jax.random.split(key, setting.domains)
  make = jax.vmap(lambda key: init_linear(key, setting.width, setting.classes))
  return {"experts": make(keys)}, {}


def predict_by_experts(
  network: Network, params: Any, images: jax.Array
) -> jax.Array:
  """The logarithm of the experts' mean probabilities."""
  embeddings = network.embed(params["network"], images)
  logits = jax.vmap(linear, (0, None))(params["experts"], embeddings)
  return jnp.log(jnp.mean(jax.nn.softmax(logits), 0))


def difex(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """Half of the features follow a teacher of phases, half are aligned.

  Its authors train the teacher first; here both learn at the same time.
  """
  seen = look(params, lesson)
  phase = generalization.fourier_phase(flat(lesson.images))
  teacher = lesson.network.embed(params["teacher"], phase)
  teacher = linear(params["bottleneck"], teacher)
  taught = cross_entropy(
    linear(params["teacher_head"], teacher), flat(lesson.labels)
  )
  terms = generalization.difex_loss(
    seen.embeddings,
    teacher.reshape(*lesson.labels.shape, -1),
    form="norm-2-norm",  # the plain norm has no lower bound
  )
  loss = jnp.mean(seen.losses) + jnp.mean(taught) + lesson.weight * sum(terms)
  return loss, lesson.state


def init_difex(key: jax.Array, setting: Setting) -> tuple[Any, Any]:
  """The teacher, with an embedding of half the width."""
  keys, half = jax.random.split(key, 3), setting.width // 2
  return {
    "teacher": setting.network.init(keys[0]),
    "bottleneck": init_linear(keys[1], setting.width, half),
    "teacher_head": init_linear(keys[2], half, setting.classes),
  }, {}
