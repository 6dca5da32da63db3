"""A call of every public function on arrays: the laws of modes run them.

The annotations of a function say which arrays it takes. `CALLS` draws an array
of each shape, with 16 examples; `GIVEN` holds what annotations do not say. So a
new function is in the table at once. A function that maps no arrays is named in
`NO_ARRAYS`.
"""

import dataclasses
import functools
import importlib
import inspect
import pathlib
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import kdjax
from kdjax import (
  adaptation,
  continual,
  finetuning,
  generalization,
  reweighting,
  transforms,
)

ROOT = pathlib.Path(kdjax.__file__).parent
ROWS = 16
# All areas of functions from arrays to arrays.
AREAS = sorted(
  {path.parent.name for path in ROOT.glob("*/__init__.py")}
  - {"data", "methods", "nets", "ops", "training"}
)
# Names of an axis of examples in the annotations.
BATCH = {
  "batch", "source", "target", "labeled", "unlabeled", "support", "query",
  "source_rows", "target_rows", "tokens",
}  # fmt: skip
SIZES = {
  "classes": 5, "source_classes": 4, "dims": 6, "channels": 6,
  "student_dims": 6, "teacher_dims": 4, "student_channels": 6,
  "teacher_channels": 4, "student_width": 6, "teacher_width": 4, "height": 4,
  "width": 4, "its_height": 4, "its_width": 4, "teacher_height": 4,
  "heads": 2, "queries": 4, "keys": 4, "views": 4, "regions": 3, "domains": 3,
  "candidates": 7, "negatives": 7, "keypoints": 3, "experts": 3, "known": 3,
  "size": 3, "outputs": 2, "half": 3, "tokens": 5, "layers": 2,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
  """A function and arguments for it.

  Attributes:
    function: the function.
    arrays: by name, arrays or trees of arrays, in NumPy.
    axes: by name, the axis of examples; -1 for arrays without such an axis.
    masks: by name, masks that are uneven over four devices.
    options: by name, all other arguments.
  """

  function: Callable[..., Any]
  arrays: Mapping[str, Any]
  axes: Mapping[str, Any]
  masks: Mapping[str, Any]
  options: Mapping[str, Any]

  @property
  def on_devices(self):
    """Whether the function takes the name of a mapped axis."""
    return "axis_name" in inspect.signature(self.function).parameters

  def __call__(self, arrays, **options):
    """The result for arrays (and masks) by name."""
    if self.on_devices:
      options = {"axis_name": None, **options}
    keywords = {**self.options, **arrays, **options}
    parameters = inspect.signature(self.function).parameters.values()
    first = [
      keywords.pop(p.name)
      for p in parameters
      if p.kind is p.POSITIONAL_OR_KEYWORD and p.name in keywords
    ]
    return self.function(*first, **keywords)


@dataclasses.dataclass(frozen=True)
class Rows:
  """An argument with an axis of examples."""

  shape: tuple[int, ...]
  axis: int = 0
  kind: str = "float"


def linear(params, batch):
  """The squared error of a linear map."""
  inputs, targets = batch
  return jnp.mean(jnp.square(inputs @ params["kernel"] - targets))


def learner(rows, values, weights, queries):
  """Weighted ridge regression, for boosting."""
  scaled = weights[:, None] * rows
  matrix = scaled.T @ rows + jnp.eye(rows.shape[1], dtype=rows.dtype)
  return queries @ jnp.linalg.solve(matrix, scaled.T @ values)


def shrink(noisy, level):
  """A denoiser of one value an example."""
  del level
  return jnp.tanh(noisy)


def key():
  return jax.random.key(0)


RNG = np.random.default_rng(7)
FLOATS = Rows((ROWS, 6))
MAPS = [Rows((ROWS, 4, 4, 6)), Rows((ROWS, 4, 4, 3))]
OF_DOMAINS = Rows((3, ROWS, 6), 1)
# Domains are spread over devices as examples are elsewhere.
OF_MANY_DOMAINS = {"gradients": FLOATS, "where": Rows((ROWS,), 0, "mask")}
DOMAIN_LABELS = Rows((ROWS,), 0, "domains")
BATCHES = (RNG.normal(size=(3, 8, 6)), RNG.normal(size=(3, 8, 2)))
PARAMS = {"kernel": RNG.normal(size=(6, 2))}
PARTNERS = np.arange(ROWS)[::-1].copy()
STATE = RNG.uniform(0.5, 1.5, (3, 5, 6)), RNG.uniform(0.5, 1.5, (3, 5))
MIXED = {"key": None, "partners": Rows((ROWS,), 0, "partners")}
MIXED |= {"weights": Rows((ROWS,), 0, "probabilities")}
STYLES = MIXED | {"features": MAPS[0]}
SCALES = {"student_scale": 2.0, "teacher_scale": 3.0}
INTELLIGENCE = continual.SynapticIntelligence(
  *({"kernel": RNG.uniform(0.5, 1.5, (6, 2))} for _ in range(3))
)
# What annotations do not say.
GIVEN: dict[str, dict[str, Any]] = {
  "fused.fused_linear_divergence": {
    "student_head": RNG.normal(size=(32, 6)),
    "teacher_head": RNG.normal(size=(32, 4)),
  },
  "fused.linear_cross_entropy": {"head": RNG.normal(size=(32, 4))},
  "fused.linear_distillation": {
    "student_head": RNG.normal(size=(32, 6)),
    "teacher_head": RNG.normal(size=(32, 4)),
  },
  "fused.sample_teacher": {"key": key, "num_samples": 3},
  "fused.sparse_linear_divergence": {
    "student_head": RNG.normal(size=(32, 6)),
  },
  "distillation.cat_loss": {
    "student_features": Rows((ROWS, 4, 4, 5)),
    "teacher_features": Rows((ROWS, 4, 4, 5)),
  },
  "distillation.crd_log_normalizer": {"num_examples": 50.0},
  "distillation.crd_loss": {
    "num_examples": 50.0,
    "temperature": 1.0,
    "normalizer": 3.0,
  },
  "distillation.crd_nce_loss": {"num_examples": 50.0},
  "distillation.crd_normalizer": {"num_examples": 50.0, "temperature": 1.0},
  "distillation.ctkd_temperature": {"parameter": Rows((ROWS,))},
  "distillation.factor_transfer_loss": {
    "student_features": MAPS[0],
    "teacher_features": MAPS[0],
  },
  "distillation.fsp_loss": {
    "student_features": MAPS,
    "teacher_features": MAPS,
  },
  "distillation.gram_loss": {
    "student_hidden": [Rows((ROWS, 5, 6)), Rows((ROWS, 5, 6))],
    "teacher_hidden": [Rows((ROWS, 5, 6)), Rows((ROWS, 5, 6))],
  },
  "distillation.kdsvd_loss": {
    "student_features": MAPS,
    "teacher_features": MAPS,
  },
  "distillation.minilm_v2_loss": {
    "student_hidden": Rows((ROWS, 5, 6)),
    "teacher_hidden": Rows((ROWS, 5, 4)),
    "relation_heads": 2,
  },
  "distillation.pkd_loss": {
    "student_hidden": FLOATS,
    "teacher_hidden": FLOATS,
  },
  "distillation.log_softened_softmax": {"logits": Rows((ROWS, 5))},
  "distillation.softened_softmax": {"logits": Rows((ROWS, 5))},
  "distillation.sp_loss": {
    "student_features": FLOATS,
    "teacher_features": FLOATS,
  },
  "distillation.ttm_loss": {"gamma": 0.3},
  "distillation.wttm_loss": {"gamma": 0.3},
  "adaptation.debias_update": {"momentum": 0.5},
  "adaptation.flexmatch_thresholds": {
    "state": adaptation.FlexMatchState(
      np.arange(20) % 6 - 1, np.array([4, 3, 2, 1, 4])
    ),
  },
  "adaptation.flexmatch_update": {
    "state": adaptation.FlexMatchState(
      np.arange(20) % 6 - 1, np.array([4, 3, 2, 1, 4])
    ),
    "indices": Rows((ROWS,), 0, "partners"),
  },
  "adaptation.h_divergence": {"num_permutations": 3},
  "adaptation.jda_loss": {"num_target": 17.0, "num_source": 11.0},
  "adaptation.jmmd": {
    "source": [FLOATS, Rows((ROWS, 4))],
    "target": [FLOATS, Rows((ROWS, 4))],
    "where_source": Rows((ROWS,), 0, "mask"),
    "where_target": Rows((ROWS,), 0, "mask"),
  },
  "adaptation.keypoint_loss": {"targets": Rows((ROWS, 4, 4, 3), 0, "share")},
  "adaptation.m3sda_loss": {
    "sources": [FLOATS, FLOATS],
    "target": FLOATS,
    "where_sources": [Rows((ROWS,), 0, "mask"), Rows((ROWS,), 0, "mask")],
    "where_target": Rows((ROWS,), 0, "mask"),
  },
  "adaptation.mean_teacher_update": {
    "teacher": PARAMS,
    "student": {"kernel": PARAMS["kernel"] + 1},
  },
  "adaptation.self_tuning_loss": {
    "queue": adaptation.SelfTuningQueue(
      RNG.normal(size=(5, 3, 6)), np.zeros(5, np.int32)
    ),
  },
  "adaptation.self_tuning_update": {
    "queue": adaptation.SelfTuningQueue(
      RNG.normal(size=(5, 3, 6)), np.zeros(5, np.int32)
    ),
  },
  "adaptation.sliced_wasserstein": {"key": key, "num_directions": 5},
  "reweighting.discriminator_weights": {"target": FLOATS},
  "reweighting.kliep_weights": {"gamma": 0.3},
  "reweighting.target_shift_weights": {"num_classes": 5},
  "reweighting.tradaboost": {
    "queries": Rows((ROWS, 6)),
    "learner": learner,
    "num_classes": 5,
    "num_rounds": 3,
  },
  "reweighting.tradaboost_r2": {
    "queries": Rows((ROWS, 6)),
    "learner": learner,
    "num_rounds": 3,
  },
  "reweighting.two_stage_tradaboost_r2": {
    "queries": Rows((ROWS, 6)),
    "learner": learner,
    "num_steps": 2,
    "num_rounds": 2,
    "num_folds": 2,
  },
  "reweighting.tradaboost_update": {
    "state": reweighting.TrAdaBoostState(
      *[Rows((ROWS,), 0, "share")] * 2, np.float64(0.2), np.float64(0.3)
    ),
    "num_rounds": 5,
  },
  "reweighting.ulsif_weights": {"gamma": 0.3},
  "transforms.adabn_update": {
    "statistics": transforms.NormStatistics(
      RNG.normal(size=6), RNG.uniform(0.5, 1.5, 6), np.float64(4)
    ),
    "activations": FLOATS,
  },
  "transforms.adabn_normalize": {
    "statistics": transforms.NormStatistics(
      RNG.normal(size=6), RNG.uniform(0.5, 1.5, 6), np.float64(4)
    ),
  },
  "transforms.gfk": {"num_components": 2},
  "transforms.interpolate_domains": {"num_steps": 3},
  "transforms.joint_distribution_adaptation": {
    "num_classes": 5,
    "num_components": 3,
    "num_iterations": 3,
  },
  "transforms.subspace_alignment": {"num_components": 2},
  "transforms.tca": {"num_components": 3},
  "generalization.andmask": OF_MANY_DOMAINS,
  "generalization.crossgrad": {
    "loss_fn": lambda x: jnp.sum(jnp.square(x), 1),
    "inputs": FLOATS,
  },
  "generalization.ddaig": {"inputs": FLOATS, "perturbation": FLOATS},
  "generalization.ddaig_generator_loss": {"domains": DOMAIN_LABELS},
  "generalization.difex_loss": {
    "student_features": OF_DOMAINS,
    "teacher_features": Rows((3, ROWS, 3), 1),
  },
  "generalization.domain_gradients": {
    "loss_fn": linear,
    "params": PARAMS,
    "batches": BATCHES,
  },
  "generalization.domainmix": MIXED
  | {"inputs": FLOATS, "domains": DOMAIN_LABELS},
  "generalization.efdmix": STYLES,
  "generalization.fish": {
    "loss_fn": linear,
    "params": PARAMS,
    "batches": BATCHES,
  },
  "generalization.fishr_penalty": {
    "state": generalization.FishrState(*STATE),
  },
  "generalization.mixstyle": STYLES,
  "generalization.mixup": {
    "key": None,
    "inputs": OF_DOMAINS,
    "partners": np.array([1, 2, 0]),
    "weights": np.array([0.2, 0.7, 0.4]),
  },
  "generalization.mldg": {
    "loss_fn": linear,
    "params": PARAMS,
    "train_batches": BATCHES,
    "test_batches": BATCHES,
  },
  "generalization.rsc_mask": {"classify": lambda x: x[:, :5]},
  "generalization.sagnet_randomize": STYLES,
  "generalization.sandmask": OF_MANY_DOMAINS,
  "generalization.vrex_penalty": {
    "losses": Rows((ROWS,)),
    "where": Rows((ROWS,), 0, "mask"),
  },
  "generation.consistency_sample": {
    "key": key,
    "consistency": shrink,
    "sigmas": np.array([3.0, 1.0]),
  },
  "generation.consistency_target": {"teacher": shrink, "target": shrink},
  "generation.ddim_sample": {"denoise": shrink, "num_steps": 3},
  "generation.progressive_distillation_target": {
    "teacher": shrink,
    "num_steps": 4,
  },
  "finetuning.class_prototypes": {"num_classes": 5},
  "finetuning.co_tuning_targets": {"num_classes": 5},
  "finetuning.prototypical_loss": {"num_classes": 5},
  "finetuning.key_queue_update": {
    "state": finetuning.KeyQueue(
      RNG.normal(size=(5, 3, 6)), np.zeros(5, np.int32)
    ),
  },
  "finetuning.l2_sp": {
    "params": PARAMS,
    "pretrained_params": {"kernel": PARAMS["kernel"] + 1},
  },
  "finetuning.stochnorm": {"key": key, "features": MAPS[0]},
  "collaboration.amalgamation_loss": {
    "teacher_logits": [Rows((ROWS, 3)), Rows((ROWS, 2))],
    "teacher_classes": [np.array([0, 1, 2]), np.array([3, 4])],
  },
  "collaboration.annealing_loss": {"temperature": 2.0, "max_temperature": 4.0},
  "continual.ewc_fisher": {
    "log_likelihood": lambda params, batch: -linear(params, batch),
    "params": PARAMS,
    "examples": (FLOATS, Rows((ROWS, 2))),
  },
  "continual.ewc_penalty": {
    "params": PARAMS,
    "past_params": {"kernel": PARAMS["kernel"] + 1},
    "fisher": {"kernel": np.square(PARAMS["kernel"])},
  },
  "continual.herding": {"size": 3},
  "continual.pod_loss": {"student_features": MAPS, "past_features": MAPS},
  "continual.reservoir_sample": {
    "state": continual.Reservoir(RNG.normal(size=(8, 6)), np.int32(8)),
    "key": key,
    "size": 3,
  },
  "continual.reservoir_update": {
    "state": continual.Reservoir(RNG.normal(size=(8, 6)), np.int32(8)),
    "key": key,
    "examples": FLOATS,
  },
  "continual.si_consolidate": {"state": INTELLIGENCE, "params": PARAMS},
  "continual.si_penalty": {"state": INTELLIGENCE, "params": PARAMS},
  "continual.si_update": {
    "state": INTELLIGENCE,
    "gradients": PARAMS,
    "updates": {"kernel": PARAMS["kernel"] - 1},
  },
  "cross_modal.affinity_mimicking_loss": SCALES,
  "cross_modal.clip_gradient_loss": SCALES,
  "cross_modal.clip_relation_loss": SCALES,
  "federated.federated_average": {
    "params": {"kernel": Rows((ROWS, 6, 2))},
    "weights": Rows((ROWS,)),
  },
  "federated.private_consensus": {
    "key": key,
    "clip": 1.0,
    "noise_multiplier": 0.5,
  },
  "language.adaptive_skew": {"reference_gap": 0.4},
  "language.chunk_log_probs": {"num_chunks": 4},
  "language.mined_logits": {"num_classes": 5},
  "language.token_mmd_loss": {
    "student_hidden": [Rows((ROWS, 5, 6)), Rows((ROWS, 5, 6))],
    "teacher_hidden": [Rows((ROWS, 5, 6)), Rows((ROWS, 5, 6))],
  },
  "selection.h_score": {"num_classes": 5},
  "selection.leep": {"num_classes": 5},
  "selection.logme": {"num_classes": 5},
  "selection.transrate": {"num_classes": 5},
  "metrics.cka": {"features_a": FLOATS, "features_b": FLOATS},
  "metrics.gradient_cosine": {
    "tree_a": PARAMS,
    "tree_b": {"kernel": PARAMS["kernel"] + 1},
  },
}
# Further forms, by `area.name:form`.
FORMS = {
  "transforms.tca:rbf": {"num_components": 3, "kernel": "rbf", "gamma": 0.3},
  "transforms.joint_distribution_adaptation:rbf": GIVEN[
    "transforms.joint_distribution_adaptation"
  ]
  | {"kernel": "rbf", "gamma": 0.3},
}
# Functions that make a first state, map numbers, or run a user's program.
NO_ARRAYS = {
  "adaptation.cdan_matrices",
  "adaptation.debias_init",
  "adaptation.flexmatch_init",
  "adaptation.gradual_self_training",
  "adaptation.h_divergence_from_errors",
  "adaptation.linear_ramp_up",
  "adaptation.self_tuning_init",
  "adaptation.sigmoid_ramp_up",
  "finetuning.key_queue_init",
  "generalization.fishr_init",
  "collaboration.best_assistants",
  "collaboration.consistency_ramp",
  "collaboration.evenly_spaced_assistants",
  "collaboration.route_anchor",
  "continual.reservoir_init",
  "continual.si_init",
  "federated.message_bytes",
  "federated.privacy_epsilon",
  "generation.cosine_log_snr",
  "generation.karras_noise_levels",
  "language.align_bytes",
  "language.align_tokens",
  "language.layer_map",
  "language.min_edit_ids",
  "language.token_bytes",
  "language.weight_schedule",
  "metrics.proxy_a_distance",
  "reweighting.tradaboost_init",
  "selection.leave_one_domain_out_selection",
  "selection.negative_transfer_test",
  "selection.oracle_selection",
  "selection.rank_teachers",
  "selection.reverse_validation",
  "selection.training_domain_selection",
  "selection.transfer_gain",
  "transforms.adabn_init",
}


def draw(name, rows):
  """An array for the argument of this name, always the same."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  shape, axis, kind = rows.shape, rows.axis, rows.kind
  if kind == "mask":
    counted = np.ones(ROWS, bool)
    if axis < 0:
      return np.ones(shape, bool)
    # Of four devices the first has no example, the others differ.
    counted[[0, 1, 2, 3, 6, 15]] = False
    others = [i for i in range(len(shape)) if i != axis]
    return np.broadcast_to(np.expand_dims(counted, others), shape).copy()
  if kind == "partners":
    return PARTNERS
  if kind == "domains":
    return np.arange(ROWS) % 3
  if kind == "share":
    return rng.uniform(0.5, 1.5, shape)
  if kind == "int":
    if "ids" in name:
      return np.argsort(rng.normal(size=(ROWS, 32)), 1)[:, :3]
    if name.startswith("mask"):  # a mask of tokens, 0 or 1
      return np.arange(np.prod(shape)).reshape(shape) % 4 > 0
    return np.arange(np.prod(shape)).reshape(shape) % 4
  values = rng.normal(size=shape)
  if "log_prob" in name:
    values = values - np.log(np.sum(np.exp(values), -1, keepdims=True)) - 0.1
  elif "probabilities" in name and len(shape) > 1:
    values = np.exp(values) / np.sum(np.exp(values), -1, keepdims=True)
  elif any(x in name for x in ("prob", "weights", "variance", "losses", "log")):
    if "logits" not in name:
      values = 1 / (1 + np.exp(-values))
  elif "errors" in name:
    values = (values > 0.5).astype(values.dtype)
  elif any(x in name for x in ("queries", "keys", "prototypes", "centers")):
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
  return values


def _shape(dims):
  """The shape of an annotation and its axis of examples."""
  shape, axis = [], -1
  for token in dims.split():
    key = token.lstrip("*")
    if axis < 0 and key in BATCH:
      axis = len(shape)
      shape.append(ROWS)
    elif key.isdecimal():
      shape.append(int(key))
    elif key not in ("...", "positions", "teacher_positions", "features"):
      shape.append(SIZES.get(key, 3))
  return tuple(shape), axis


def _rows_of(parameter, area):
  """What the annotation of a parameter asks for; None if it is no array."""
  annotation = parameter.annotation
  members = [annotation]
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    members = typing.get_args(annotation)
  for member in members:
    if hasattr(member, "dim_str"):
      kinds = {"Bool": "mask", "Int": "int", "Integer": "int"}
      kind = kinds.get(member.__name__.split("[")[0], "float")
      shape, axis = _shape(member.dim_str)
      if area == "fused" and "logits" in parameter.name:
        shape = (*shape[:-1], 32)
      return Rows(shape, axis, kind)
  return None


def _call(area, name, function, given):
  arrays, axes, masks, options = {}, {}, {}, {}

  def put(name, value):
    """Sorts an argument by what it is."""
    leaves = jax.tree.leaves(value, is_leaf=_is_rows)
    if callable(value):
      options[name] = value() if value is key else value
    elif any(_is_rows(leaf) for leaf in leaves):
      place = masks if leaves[0].kind == "mask" and "where" in name else arrays
      leaves, structure = jax.tree.flatten(value, is_leaf=_is_rows)
      place[name] = structure.unflatten(
        draw(f"{name}{i}", x) if _is_rows(x) else x
        for i, x in enumerate(leaves)
      )
      axes[name] = structure.unflatten(
        x.axis if _is_rows(x) else -1 for x in leaves
      )
    elif any(isinstance(leaf, np.ndarray) for leaf in leaves):
      arrays[name] = value
      axes[name] = jax.tree.map(lambda x: -1, value)
    else:
      options[name] = value

  for parameter in inspect.signature(function).parameters.values():
    if parameter.name in given:
      put(parameter.name, given[parameter.name])
      continue
    is_mask = "where" in parameter.name
    asked = is_mask or parameter.default is inspect.Parameter.empty
    if asked and (rows := _rows_of(parameter, area)):
      put(parameter.name, rows)
  return Call(function, arrays, axes, masks, options)


def _is_rows(value):
  return isinstance(value, Rows)


def public_functions():
  """The public functions of the areas, by `area.name`."""
  for area in AREAS:
    module = importlib.import_module(f"kdjax.{area}")
    for name in module.__all__:
      function = getattr(module, name)
      if inspect.isfunction(function):
        yield f"{area}.{name}", function


@functools.cache
def calls():
  """The call of each public function that maps arrays, by `area.name`."""
  functions = dict(public_functions())
  forms = {
    name: GIVEN.get(name, {}) for name in functions if name not in NO_ARRAYS
  }
  return {
    name: _call(*base.split("."), functions[base], given)
    for name, given in (forms | FORMS).items()
    for base in [name.partition(":")[0]]
  }
