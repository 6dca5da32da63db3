"""Learners of rows of the table of methods, on tiny arrays."""

import inspect

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
OPTIONS = {"minilm_v2": {"relation_heads": 12}}
OPTIMIZER = optax.chain(optax.adam(1e-2), training.parameter_ema(0.9))


def network(outputs=CLASSES):
  return training.Network.of(
    lambda rngs: nets.MLP(outputs, input_shape=SHAPE, hidden=(6,), rngs=rngs)
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
  }


def noise(key, inputs):
  return inputs + 0.1 * jax.random.normal(key, inputs.shape)


def view(key, batch):
  return noise(key, batch["image"])


def options_of(factory, **known):
  """Those of the known options that a factory has parameters for."""
  parameters = inspect.signature(factory).parameters
  return {k: v for k, v in known.items() if k in parameters}


def learner_of(name, optimizer=OPTIMIZER):
  """A learner of a row and a batch for it."""
  row = methods.PRESETS[name]
  objective = methods.preset(name, **RUN, **OPTIONS.get(name, {}))
  options = {"views": dict.fromkeys(row.views, view), "passes": row.passes}
  if row.prepare is not None:
    known = options_of(row.prepare, augment=noise, half_width=1)
    options["prepare"] = row.prepare(**known)
  if row.rule is not None:
    known = options_of(row.rule, inner=optax.adam(1e-2))
    options["rule"] = row.rule(**known)
  if row.area == "generalization":
    outputs = {"judge": DOMAINS, "generator": int(np.prod(SHAPE))}
    others = {k: network(outputs.get(k, CLASSES)) for k in row.networks}
    learner = training.generalize(
      network(), objective, optimizer, others=others, **options
    )
    return learner, part(0, DOMAINS, BATCH)
  if row.area == "finetuning" and not row.domains:
    past = model_of(network()) if "past" in row.networks else None
    learner = training.finetune(
      network(),
      past,
      objective,
      optimizer,
      average="average" in row.networks,
    )
    return learner, part(0, BATCH)
  if row.area == "language":
    return learner_of_text(name, row, objective, optimizer)
  if row.area in ("continual", "collaboration", "federated", "cross_modal"):
    return learner_of_others(name, row, objective, optimizer)
  if "segmentation" in row.summary:
    student = training.Network.of(Segmenter)
  else:
    student = network()
  teacher = None
  if "average" in row.networks and not row.passes:
    teacher = "average"
  elif "source" in row.networks:
    teacher = model_of(student)
  learner = training.adapt(
    student,
    objective,
    optimizer,
    teacher=teacher,
    domains=row.domains,
    **options,
  )
  axes = {"source": (DOMAINS, BATCH)} if name == "dael" else {}
  batch = {
    domain: part(i, *axes.get(domain, (BATCH,)))
    for i, domain in enumerate(row.domains)
  }
  if "segmentation" in row.summary:
    for domain in batch.values():
      maps = jnp.broadcast_to(domain["label"][:, None, None], (BATCH, 4, 4))
      domain["label"], domain["mask"] = maps, jnp.ones_like(maps, bool)
  return learner, batch


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


def learner_of_text(name, row, objective, optimizer):
  encoder = name in ENCODED
  teacher = None
  if "teacher" in row.networks:
    teacher = model_of(text_network(4 if encoder else 1, encoder=encoder))
  apart = name in ("uld", "dskd_cma")
  learner = training.distill(
    text_network(2 if encoder else 1, encoder=encoder),
    teacher,
    objective,
    optimizer,
    on=("tokens", "attention_mask"),
    teacher_on="teacher_tokens" if apart else None,
    views={
      view: lambda key, batch, view=view: batch[f"{view}_tokens"]
      for view in row.views
    },
  )
  return learner, text_batch()


def learner_of_others(name, row, objective, optimizer):
  """Of peers, of several teachers, of a past, of towers; else of a teacher."""
  logits = jnp.linspace(-1, 1, BATCH * CLASSES).reshape(BATCH, CLASSES)
  batch = part(0, BATCH) | {"consensus_logits": logits}
  kinds = {name.rpartition("_")[0] or name for name in row.networks}
  if "peer" in kinds:
    count = sum(name.startswith("peer") for name in row.networks)
    peers = [network()] * count
    learner = training.collaborate(
      peers, objective, optimizer, stale="stale" in kinds
    )
    return learner, batch
  if "teacher_0" in row.networks:
    teachers = [model_of(network())] * len(row.networks)
    return training.guide(network(), teachers, objective, optimizer), batch
  if row.domains or "past" in kinds or row.area == "continual":
    batch |= {
      name: part(i, BATCH) | {"stored_logits": logits}
      for i, name in enumerate(row.domains, 1)
    }
    past = model_of(network()) if "past" in kinds else None
    learner = training.continue_on(
      network(), objective, optimizer, past=past, replay=row.domains
    )
    return learner, batch
  if row.area == "cross_modal" and row.networks != ("teacher",):
    batch["text"] = images(1, BATCH)
    teachers = {k: model_of(network()) for k in ("image", "text")}
    learner = training.align(
      {"image": network(), "text": network()},
      objective,
      optimizer,
      teachers=teachers if row.networks else None,
    )
    return learner, batch
  if name == "sandwich":
    student, views = (
      training.slimmable(network()),
      methods.sandwich_views(0.5),
    )
    return training.distill(
      student, None, objective, optimizer, views=views
    ), batch
  teacher = model_of(network()) if "teacher" in kinds else None
  return training.distill(network(), teacher, objective, optimizer), batch


def model_of(made):
  return training.Model(made.forward, made.init(jax.random.key(7)))
