"""Methods that weigh or map all examples before the first step."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax import reweighting, transforms
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods._row import Row
from kdjax.methods.adaptation import _comparisons
from kdjax.methods.adaptation._row_kinds import on_source

Inputs = str | tuple[str, ...]


def _weights(
  weigh: Callable[..., Any], *, by_logits: bool = False, **defaults: Any
) -> Callable[..., Method]:
  """A method whose data step gives the source the entry `"weight"`.

  Args:
    weigh: a function of `kdjax.reweighting`, which reads rows of both domains
      or, by logits, the answers of the network that the source has trained.
    by_logits: which of both.
    **defaults: of its hyper-parameters.
  """
  read = inspect.signature(weigh).parameters

  def make(*, num_classes: int | None = None, **options: Any) -> Method:
    own = defaults | options
    _check(weigh, own)

    def data(data: Any, answer: Any, *, on: Inputs = "image") -> Any:
      source, target = data["source"], data["target"]
      if by_logits:
        seen = [_answers(answer, part, on) for part in (source, target)]
      else:
        seen = [rows_of(part, on) for part in (source, target)]
      labels = _labels(source)
      known: dict[str, Any] = {
        "source": seen[0],
        "source_logits": seen[0],
        "target": seen[1],
        "target_logits": seen[1],
        "source_labels": labels,
      }
      if "num_classes" in read:
        known["num_classes"] = _classes(num_classes, labels)
      arguments = {k: v for k, v in known.items() if k in read} | own
      return {**data, "source": {**source, "weight": weigh(**arguments)}}

    loss = stateless(_comparisons.weighted_cross_entropy)
    prepare = _requires("weight", "weighs the source")
    return Method(loss, prepare=prepare, data=data)

  return make


def _map(fit: Callable[..., Any], **defaults: Any) -> Callable[..., Method]:
  """A method whose data step maps both domains into one space.

  Rows `[examples, dims]` become rows, images become images of one pixel, whose
  channels are the dimensions. A part other than `"source"` and
  `"validation/source"` is of the target. The source gets the entry `"mapped"`,
  which the steps ask for. The target's labels are not read.
  """
  read = inspect.signature(fit).parameters

  def make(*, num_classes: int | None = None, **options: Any) -> Method:
    own = defaults | options
    _check(fit, own)

    def data(data: Any, answer: Any, *, on: str = "image") -> Any:
      del answer
      known: dict[str, Any] = {}
      if "source_labels" in read:
        known["source_labels"] = _labels(data["source"])
      if "num_classes" in read:
        known["num_classes"] = _classes(num_classes, _labels(data["source"]))
      pair = [rows_of(data[k], on) for k in ("source", "target")]
      fitted = fit(*pair, **known, **own)

      def mapped(name: str, part: Any) -> Any:
        domain = "source" if name.rpartition("/")[2] == "source" else "target"
        out = fitted.apply(rows_of(part, on), domain=domain)
        if jnp.ndim(part[on]) > 2:
          out = out[:, None, None]
        return {**part, on: out}

      moved = {name: mapped(name, part) for name, part in data.items()}
      ones = jnp.ones(len(moved["source"][on]))
      return {**moved, "source": {**moved["source"], "mapped": ones}}

    prepare = _requires("mapped", "maps both domains")
    return Method(prepare=prepare, data=data)

  return make


def rows_of(part: Any, on: Inputs) -> Array:
  """The inputs as rows of floats; bytes are from 0 to 1."""
  names = (on,) if isinstance(on, str) else on
  rows = []
  for name in names:
    inputs = jnp.asarray(part[name])
    scale = 255.0 if inputs.dtype == jnp.uint8 else 1.0
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
      inputs = inputs.astype(jnp.float32)
    rows.append(inputs.reshape(len(inputs), -1) / scale)
  return jnp.concatenate(rows, -1) if len(rows) > 1 else rows[0]


def _answers(answer: Any, part: Any, on: Inputs, size: int = 512) -> Array:
  """The logits of all examples, some at a time."""
  inputs = part[on] if isinstance(on, str) else {k: part[k] for k in on}
  count = len(jax.tree.leaves(inputs)[0])
  chunks = [
    answer(jax.tree.map(lambda x, i=i: x[i : i + size], inputs)).logits
    for i in range(0, count, size)
  ]
  return jnp.concatenate(chunks)


def _labels(part: Any) -> Array:
  return jnp.asarray(part["label"]).astype(jnp.int32)


def _classes(given: int | None, labels: Array) -> int:
  return int(np.max(labels)) + 1 if given is None else given


def _requires(entry: str, does: str) -> Callable[..., Any]:
  """Asks for the entry of the source that the data step adds."""

  def prepare(key: Array, batch: Any, run: Any) -> Any:
    del key, run
    if entry not in batch["source"]:
      raise ValueError(
        f"the method {does} before the first step, and the batch has no "
        f"batch['source'][{entry!r}]; expected training.fit, which does it, or "
        "batches of learner.method.data(data, answer)."
      )
    return batch

  return prepare


def _check(function: Callable[..., Any], options: Any) -> None:
  """Raises ValueError for an option that the function has no keyword for."""
  known = [
    k
    for k, v in inspect.signature(function).parameters.items()
    if v.kind is v.KEYWORD_ONLY and not k.startswith(("where", "axis_name"))
  ]
  for name in options:
    if name not in known:
      title = getattr(function, "__name__", "the method")
      raise ValueError(
        f"{title} has no hyper-parameter {name!r}; expected one of "
        f"{', '.join(known)}."
      )


def _weighted(title: str, summary: str, make: Any, **needs: Any) -> Row:
  return on_source(title, summary, make, cross_entropy=0.0, **needs)


ROWS: dict[str, Row] = {
  "kmm": _weighted(
    "KMM",
    "the weighted source has the target's kernel mean embedding",
    _weights(reweighting.kmm_weights),
  ),
  "kliep": _weighted(
    "KLIEP",
    "density ratios of the least divergence",
    _weights(reweighting.kliep_weights),
  ),
  "ulsif": _weighted(
    "uLSIF",
    "density ratios by least squares",
    _weights(reweighting.ulsif_weights),
  ),
  "rulsif": _weighted(
    "RuLSIF",
    "density ratios to a mixture, by least squares",
    _weights(reweighting.ulsif_weights, alpha=0.1),
  ),
  "discriminator_ratio": _weighted(
    "discriminator ratio",
    "density ratios of a logistic regression of the domains",
    _weights(reweighting.discriminator_weights),
  ),
  "bbse": _weighted(
    "BBSE",
    "weights of classes, by a classifier's confusions",
    _weights(reweighting.bbse_weights, by_logits=True),
    start="source",
  ),
  "pada_weights": _weighted(
    "PADA's weights",
    "weights of classes, by a classifier's predictions on the target",
    _weights(reweighting.pada_class_weights, by_logits=True),
    start="source",
  ),
  "target_shift": _weighted(
    "MMD target shift",
    "weights of classes, by kernel mean embeddings",
    _weights(reweighting.target_shift_weights),
  ),
  "coral_map": on_source(
    "CORAL map",
    "the source takes the target's covariance",
    _map(transforms.coral_transform),
  ),
  "linear_ot": on_source(
    "linear OT map",
    "the source takes the target's mean and covariance, by least transport",
    _map(transforms.linear_ot),
  ),
  "subspace_alignment": on_source(
    "subspace alignment",
    "the source's principal axes are turned to the target's",
    _map(transforms.subspace_alignment),
  ),
  "gfk": on_source(
    "GFK",
    "the geodesic flow between the principal axes of both domains",
    _map(transforms.gfk),
  ),
  "tca": on_source(
    "TCA",
    "components in which both domains have the same mean",
    _map(transforms.tca),
  ),
  "jda_map": on_source(
    "JDA map",
    "components in which both domains have the same mean, class by class",
    _map(transforms.joint_distribution_adaptation),
  ),
}
