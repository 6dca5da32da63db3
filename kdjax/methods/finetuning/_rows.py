"""The methods of fine-tuning, as their authors weigh them."""

from collections.abc import Mapping
from typing import Any

from jax.typing import ArrayLike

from kdjax import finetuning
from kdjax.methods._objective import Objective
from kdjax.methods._row import Row, Search, todo, lift
from kdjax.methods.finetuning._bi_tuning import bi_tuning
from kdjax.methods.finetuning._co_tuning import co_tuning
from kdjax.methods.finetuning._delta import delta
from kdjax.methods.finetuning._l2_sp import l2_sp
from kdjax.methods.finetuning._lwf import lwf
from kdjax.methods.finetuning._prototypical import prototypical


def _behavior(*, weight: ArrayLike = 0.48, **options: Any) -> Objective:
  return delta(weight=weight, **options)


def _attention(
  attention: Mapping[str, ArrayLike],
  *,
  weight: ArrayLike = 0.48,
  **options: Any,
) -> Objective:
  return delta(attention, weight=weight, **options)


def _row(title: str, summary: str, method: Any, **needs: Any) -> Row:
  """A method that starts from the pretrained network."""
  options: dict[str, Any] = {"start": "past"} | todo(needs)
  return Row(title, summary, method, area="finetuning", **options)


def _trained(title: str, summary: str, **needs: Any) -> Row:
  """A method whose objective is the cross-entropy alone."""
  options: dict[str, Any] = {"tuned": ""} | todo(needs)
  return _row(title, summary, None, **options)


ROWS: dict[str, Row] = {
  "from_scratch": _trained(
    "from scratch", "the target's labels alone, from new weights", start=""
  ),
  "finetune": _trained("fine-tuning", "all layers from pretrained weights"),
  "linear_probe": _trained(
    "linear probe",
    "the new head alone: factors of 0 for all groups of layers before it",
    training="layerwise_learning_rates",
  ),
  "layerwise": _trained(
    "layer-wise rates",
    "learning rates that fall by a factor from layer to layer",
    training="layerwise_learning_rates",
    tuned="decay",
    search=Search(1 / 2.6),
    source="ULMFiT's factor",
  ),
  "unfreezing": _trained(
    "gradual unfreezing",
    "one more group of layers is trained at a time, from the last one",
    training="gradual_unfreezing",
    tuned="every",
    source="ULMFiT's, an epoch",
  ),
  "l2_sp": _row(
    "L2-SP",
    "the parameters stay near the pretrained ones",
    l2_sp,
    weight=0.01,
    networks=("past",),
    source="TLlib",
  ),
  "delta": _row(
    "DELTA",
    "the features stay near the pretrained ones",
    _behavior,
    weight=0.48,
    networks=("past",),
    source="TLlib, whose 0.01 is of the sum over 48 examples",
  ),
  "delta_attention": _row(
    "DELTA with attention",
    "the features stay near the pretrained ones, channels by what they help",
    _attention,
    weight=0.48,
    networks=("past",),
    source="TLlib, whose 0.01 is of the sum over 48 examples",
  ),
  "bss": _row(
    "BSS",
    "the smallest singular value of a batch's features is penalized",
    lift(finetuning.bss_loss, ("student_embeddings",)),
    weight=0.001,
    source="TLlib",
  ),
  "co_tuning": _row(
    "Co-Tuning",
    "the pretrained head is trained on, with labels of related classes",
    co_tuning,
    weight=2.3,
    networks=("past",),
    source="TLlib",
  ),
  "lwf": _row(
    "LwF",
    "the pretrained head keeps its answers",
    lwf,
    weight=4 / 9,
    networks=("past",),
    source="TLlib, whose 4 is without the factor T^2",
  ),
  "bi_tuning": _row(
    "Bi-Tuning",
    "contrastive losses of the classifier and of a projector, with queues",
    bi_tuning,
    networks=("average",),
    training="parameter_ema",
    source="TLlib",
  ),
  "stochnorm": _trained(
    "StochNorm",
    "batch normalization takes moving statistics at random",
    training="stochastic_norms",
    tuned="probability",
    search=Search(0.5),
    source="paper",
  ),
  "maml": _trained(
    "MAML",
    "fine-tuning from weights that adapt to a task in a few steps",
    start="maml_losses",
  ),
  "anil": _trained(
    "ANIL",
    "as MAML, of the head alone in both stages",
    start="maml_losses",
    training="layerwise_learning_rates",
  ),
  "reptile": _trained(
    "Reptile",
    "fine-tuning from weights that are near to those of all tasks",
    start="reptile_gradient",
  ),
  "prototypical": _row(
    "prototypical networks",
    "queries are classified by the mean embeddings of a task's few examples",
    prototypical,
    cross_entropy=0.0,
    domains=("support", "query"),
    start="",
    tuned="",
  ),
}
