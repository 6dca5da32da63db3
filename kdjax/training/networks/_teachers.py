"""Teachers that are no single network: several at once, or none any more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import nets, ops
from kdjax.training.networks._models import (
  Model,
  Variables,
  check_model,
  run_forward,
)


def ensemble(
  models: Sequence[Model],
  *,
  average: str = "logits",
  temperature: ArrayLike = 1.0,
) -> Model:
  r"""Ensemble: one teacher whose logits are the mean of several teachers'.

  .. math::
    z = \operatorname{mean}_i z_i \qquad \text{or} \qquad
    z = T \log \operatorname{mean}_i \operatorname{softmax}(z_i / T)

  The second, the mean of probabilities, is returned as logits of which a loss
  at the same temperature makes just that mean. At another temperature it would
  sharpen or flatten the mean, which is not the mean of sharper or flatter
  probabilities. The sum of the teachers' KL terms is, but for a constant, the
  KL to the mean of probabilities times their number.

  Args:
    models: the teachers; they may differ in everything but their classes.
    average: `"logits"`, the geometric mean of probabilities, in which a sure
      teacher prevails; or `"probabilities"`.
    temperature: T of the loss; it matters for probabilities only.

  Returns:
    A `Model` like any other, whose outputs have logits alone. Its
    variables hold a tuple of the teachers' parameters and one of their states.

  Raises:
    TypeError: if a model is no `Model`.
    ValueError: if there is no model, for an unknown average, or for a static
      temperature that is not positive.

  Examples:
    >>> def forward(variables, x, *, train, key):
    ...   return nets.Outputs(x + variables.params, {}, None), {}
    >>> models = [Model(forward, Variables(y, {})) for y in (0.0, 2.0)]
    >>> model = ensemble(models)
    >>> x = jnp.zeros((1, 3))
    >>> outputs, _ = model.forward(model.variables, x, train=False, key=None)
    >>> outputs.logits
    Array([[1., 1., 1.]], dtype=float32)

  References:
    Hinton et al., `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015, section 3: both means; Beyer et
    al., `Knowledge distillation: a good teacher is patient and consistent
    <https://arxiv.org/abs/2106.05237>`_, 2021, whose code averages
    probabilities.
  """
  if not models:
    raise ValueError("ensemble: models is empty; expected at least one.")
  if isinstance(models, Model):
    raise TypeError("ensemble: models is a Model; expected a sequence of them.")
  for i, model in enumerate(models):
    check_model(f"ensemble: models[{i}]", model)
  ops.check_choice("ensemble: average", average, ("logits", "probabilities"))
  ops.check_positive("ensemble: temperature", temperature)
  forwards = [model.forward for model in models]

  def forward(
    variables: Variables,
    inputs: Any,
    *,
    train: bool,
    key: Array | None,
    axis_name: str | None = None,
  ) -> tuple[nets.Outputs, Any]:
    rows, states = [], []
    for i, (forward, *parts) in enumerate(
      zip(forwards, variables.params, variables.state, strict=True)
    ):
      outputs, state = run_forward(
        f"ensemble: models[{i}]",
        forward,
        Variables(*parts),
        inputs,
        train=train,
        key=None if key is None else jax.random.fold_in(key, i),
        axis_name=axis_name,
      )
      rows.append(outputs.logits)
      states.append(state)
    logits = jnp.stack(rows)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if average == "logits":
      logits = logits.mean(0)
    else:
      scale = jnp.asarray(temperature, logits.dtype)
      shares = jax.nn.log_softmax(logits / scale)
      logits = jax.nn.logsumexp(shares, axis=0) - jnp.log(len(rows))
      logits = scale * logits
    return nets.Outputs(logits, {}, None), tuple(states)

  variables = zip(*(model.variables for model in models), strict=True)
  return Model(forward, Variables(*variables))


@dataclass(frozen=True)
class CachedTeacher:
  """Cached teacher: its logits come with the batch, the network is not there.

  Stands where a teacher is expected, in `distill` and `pass_loss`.
  `kdjax.data.TeacherCache` attaches the batch's `"teacher"`, which is either
  `{"logits": [b, classes]}` or, of the k classes that the teacher deems
  likeliest, `{"ids": [b, k], "values": [b, k], "rest": [b]}`: their logits, and
  the log-sum-exp of all others'. Of these, full logits are made, so that every
  loss of logits works. (Of a large vocabulary they should not be made:
  `kdjax.fused.sparse_divergence` takes the known classes alone.)

  Attributes:
    num_classes: of the teacher.
    tail: `"spread"` divides the rest of the mass evenly among the other
      classes, which keeps all probabilities at temperature 1 that are known;
      a higher temperature overrates the evened-out tail. `"drop"` gives them
      the logit -inf.

  Raises:
    ValueError: for an unknown tail; when called, if the batch has no teacher,
      one of another number of classes, or one that a cache's `keep` changed.

  Examples:
    >>> teacher = CachedTeacher(3)
    >>> ids, values = jnp.array([[2]]), jnp.log(jnp.array([[0.5]]))
    >>> top = {"ids": ids, "values": values, "rest": jnp.log(jnp.array([0.5]))}
    >>> jax.nn.softmax(teacher({"teacher": top}).logits)
    Array([[0.25, 0.25, 0.5 ]], dtype=float32)

  References:
    Shen and Xing, `A fast knowledge distillation framework for visual
    recognition <https://arxiv.org/abs/2112.01528>`_, 2021, whose "marginal
    smoothing" spreads the rest.
  """

  num_classes: int
  tail: str = "spread"

  def __post_init__(self):
    ops.check_choice("CachedTeacher: tail", self.tail, ("spread", "drop"))

  def __call__(self, batch: Any) -> nets.Outputs:
    """The teacher's outputs, which are logits alone."""
    if "teacher" not in batch:
      raise ValueError(
        f"batch has {sorted(batch)}; expected 'teacher' too, which "
        "kdjax.data.TeacherCache attaches, for a CachedTeacher."
      )
    cached = batch["teacher"]
    if "logits" in cached:
      logits = cached["logits"]
      logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
      if logits.shape[-1] != self.num_classes:
        raise ValueError(
          f"batch['teacher'] has logits of shape {logits.shape}; expected "
          f"num_classes = {self.num_classes} at the end."
        )
      return nets.Outputs(logits, {}, None)
    if not {"ids", "values", "rest"} <= set(cached):
      raise ValueError(
        f"batch['teacher'] has {sorted(cached)}; expected 'logits', or 'ids', "
        "'values' and 'rest'."
      )
    *rows, k = cached["ids"].shape
    values = cached["values"].astype(jnp.float32)
    rest = jnp.full_like(cached["rest"], -jnp.inf)
    if self.tail == "spread":
      rest = cached["rest"] - jnp.log(self.num_classes - k)
    logits = jnp.broadcast_to(rest[..., None], (*rows, self.num_classes))
    logits = jnp.put_along_axis(
      logits, cached["ids"], values, axis=-1, inplace=False
    )
    return nets.Outputs(logits, {}, None)
