"""Learners of rows of the table of methods, on tiny arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from kdjax import language, methods, nets, training

KEY = jax.random.key(0)
BATCH, DOMAINS, CLASSES = 4, 2, 3
SHAPE = (4, 4, 1)
# What a method may need to know of the run.
RUN = {
  "steps": 10,
  "steps_per_epoch": 5,
  "num_examples": BATCH,
  "num_classes": CLASSES,
  "hidden": (5,),
  "relationship": jnp.ones((CLASSES, CLASSES)) / CLASSES,
  "attention": {"f0": jnp.ones(6)},
  "past_classes": jnp.arange(CLASSES) < 1,
  "prototypes": jnp.ones((CLASSES, 6)),
  "class_centers": jnp.eye(CLASSES, 6),
  "teacher_classes": [jnp.arange(CLASSES), jnp.arange(CLASSES)[::-1]],
}
# Options for the sizes of the networks here: the published 48 relation heads
# are for a width of 768.
# Few steps are taken here: penalties begin with the first one.
OPTIONS = {
  "minilm_v2": {"relation_heads": 12},
  "fishr": {"anneal_steps": 0},
}
OPTIMIZER = optax.chain(optax.adam(1e-2), methods.parameter_ema(0.9))


def network(outputs=CLASSES):
  return training.Network.of(
    lambda rngs: nets.MLP(outputs, input_shape=SHAPE, hidden=(6,), rngs=rngs)
  )


def convolutional():
  """Maps of four stages, as methods on features read them."""
  return training.Network.of(
    lambda rngs: nets.ResNet(
      8, CLASSES, input_shape=SHAPE, channels=(2, 2, 4, 6), rngs=rngs
    )
  )


def vision_transformer():
  return training.Network.of(
    lambda rngs: nets.ViT(
      CLASSES,
      input_shape=SHAPE,
      patch_size=2,
      width=8,
      depth=3,
      num_heads=2,
      rngs=rngs,
    )
  )


class Segmenter(nnx.Module):
  """A classifier of pixels."""

  def __init__(self, rngs):
    self.layer = nnx.Conv(1, CLASSES, (3, 3), rngs=rngs)

  def __call__(self, images):
    return nets.Outputs(self.layer(images), {}, None)


def images(seed, *axes):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(*axes, *SHAPE)), jnp.float32)


def part(seed, *axes):
  size = int(np.prod(axes))
  return {
    "image": images(seed, *axes),
    "label": (jnp.arange(size) % CLASSES).reshape(axes),
    "mask": jnp.ones(axes, bool),
    "index": jnp.arange(size).reshape(axes),
    "weight": jnp.ones(axes),
    "mapped": jnp.ones(axes),
  }


def noise(key, inputs):
  return inputs + 0.1 * jax.random.normal(key, inputs.shape)


def view(key, batch):
  return noise(key, batch["image"])


def facts_of(name):
  """The facts of the run, and options for the sizes of the networks here."""
  return RUN | OPTIONS.get(name, {})


def method_of(name):
  """A method without its stage before, whose networks are given."""
  return methods.create(name, **facts_of(name))._replace(before={})


def learner_of(name, optimizer=OPTIMIZER, *, of=None):
  """A learner and a batch for it; `of` is another method to train there."""
  row = methods.describe(name)
  method = method_of(name)
  own = method if of is None else of
  views = dict.fromkeys(own.needs.views, view)
  networks = networks_of(name, row, method)
  if row.area == "language":
    return learner_of_text(name, own, optimizer)
  if row.area == "cross_modal" and row.networks != ("teacher",):
    teachers = {k: model_of(network()) for k in ("image", "text")}
    learner = training.align(
      {"image": network(), "text": network()},
      own,
      optimizer,
      teachers=teachers if "teacher_image" in row.networks else None,
    )
    return learner, batch_of(name)
  if name == "sandwich":
    networks["student"] = training.slimmable(network())
    views = methods.sandwich_views(0.5)
  learner = training.learner(own, networks, optimizer, views=views)
  return learner, batch_of(name)


# Methods beside those of distillation that change or read layers of maps.
OF_MAPS = ("mixstyle", "efdmix", "stochnorm")


def networks_of(name, row, method):
  """role -> a network, frozen or trained as the method wants it."""
  if "segmentation" in row.summary:
    made = training.Network.of(Segmenter)
  elif row.area == "distillation" or name in OF_MAPS:
    made = vision_transformer() if row.group == "tokens" else convolutional()
  else:
    made = network()
  outputs = {"judge": DOMAINS, "generator": int(np.prod(SHAPE))}
  networks = {}
  if "student" in method.trained or not method.trained:
    networks["student"] = made
  for role in (*row.networks, *method.needs.networks, *method.needs.trained):
    if role in networks or role == "average":
      continue
    own = network(outputs[role]) if role in outputs else made
    networks[role] = own if role in method.trained else model_of(own)
  for role in method.trained:
    networks.setdefault(role, network(outputs.get(role, CLASSES)))
  return networks


def batch_of(name):
  """A batch of the form that a method's area has."""
  row = methods.describe(name)
  if row.area == "language":
    return text_batch()
  if row.area == "generalization":
    return part(0, DOMAINS, BATCH)
  if row.area == "adaptation":
    axes = {"source": (DOMAINS, BATCH)} if name == "dael" else {}
    batch = {
      domain: part(i, *axes.get(domain, (BATCH,)))
      for i, domain in enumerate(("source", "target"))
    }
    if "segmentation" in row.summary:
      for domain in batch.values():
        maps = jnp.broadcast_to(domain["label"][:, None, None], (BATCH, 4, 4))
        domain["label"], domain["mask"] = maps, jnp.ones_like(maps, bool)
    return batch
  logits = jnp.linspace(-1, 1, BATCH * CLASSES).reshape(BATCH, CLASSES)
  batch = part(0, BATCH) | {"consensus_logits": logits}
  if row.area == "finetuning" and row.domains:
    passes = method_of(name).passes
    many = any(x.batch_axes > 1 for x in passes.values())
    axes = (DOMAINS, BATCH) if many else (BATCH,)
    return {domain: part(i, *axes) for i, domain in enumerate(row.domains)}
  batch |= {
    name: part(i, BATCH) | {"stored_logits": logits}
    for i, name in enumerate(row.domains, 1)
  }
  if row.area == "cross_modal":
    batch["text"] = images(1, BATCH)
  return batch


# Read hidden states and attention of an encoder.
ENCODED = ("tinybert", "distilbert", "minilm", "minilm_v2", "pkd")
LENGTH, VOCAB = 5, 7


def text_network(depth, *, encoder=False):
  """A tiny transformer; the relation heads of `OPTIONS` divide its width."""
  sizes = {"width": 12, "depth": depth, "num_heads": 2, "inner_width": 6}
  if encoder:
    config = nets.TextEncoderConfig(VOCAB, head="mlm", **sizes)
    return training.Network.of(lambda rngs: nets.TextEncoder(config, rngs=rngs))
  config = nets.DecoderConfig(VOCAB, **sizes)
  return training.Network.of(lambda rngs: nets.Decoder(config, rngs=rngs))


def text_batch():
  """Tokens with padding, and what methods of own text read beside them."""
  rng = np.random.default_rng(3)
  tokens, other, own = jnp.asarray(rng.integers(0, VOCAB, (3, BATCH, LENGTH)))
  lengths = jnp.array([[5], [4], [2], [5]])
  mask = jnp.arange(LENGTH)[None] < lengths
  batch = {"tokens": tokens, "attention_mask": mask}
  for prefix, text in (("", tokens), ("teacher_", other), ("on_policy_", own)):
    labels, where = language.next_token_targets(text, attention_mask=mask)
    batch[f"{prefix}tokens"] = text
    batch[f"{prefix}label"], batch[f"{prefix}mask"] = labels, where
  return batch


def learner_of_text(name, method, optimizer):
  encoder = name in ENCODED
  networks = {"student": text_network(2 if encoder else 1, encoder=encoder)}
  if "teacher" in methods.describe(name).networks:
    teacher = text_network(4 if encoder else 1, encoder=encoder)
    networks["teacher"] = model_of(teacher)
  on = ("tokens", "attention_mask")
  apart = name in ("uld", "dskd_cma")
  learner = training.learner(
    method,
    networks,
    optimizer,
    on={"student": on, "teacher": "teacher_tokens"} if apart else on,
    views={
      view: lambda key, batch, view=view: batch[f"{view}_tokens"]
      for view in method.needs.views
    },
  )
  return learner, text_batch()


def model_of(made):
  return training.Model(made.forward, made.init(jax.random.key(7)))
