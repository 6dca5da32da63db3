"""The methods: rows of the library's table, and losses of `kdjax.fused`."""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from experiments.distill_lm.networks import Language
from kdjax import fused, nets
from kdjax import methods as kmethods

NONE: Mapping[str, Any] = types.MappingProxyType({})
BASELINE = "scratch"


class Method(NamedTuple):
  """A way to train a student."""

  title: str
  summary: str
  # One of `kmethods.names()`, or `(teacher, student, known) -> loss`.
  loss: str | Callable[..., Callable[..., Array]]
  options: Mapping[str, Any] = NONE  # of that method
  # The text that the student reads: "corpus", "teacher" (written by it),
  # "own" in a share of the steps, "both", its own with the improbable tokens
  # replaced by the teacher, or "pair", the teacher's beside its own.
  text: str = "corpus"
  start: str = "random"  # or "copied"
  longer: int = 1  # times the steps of the others

  @property
  def taught(self) -> bool:
    """Whether it runs the teacher in a step."""
    if isinstance(self.loss, str):
      return "teacher" in kmethods.describe(self.loss).networks
    return True

  @property
  def program(self) -> tuple[Any, ...]:
    """Equal for two methods whose steps compute the same."""
    return self.loss, dict(self.options), self.text


def known_method(
  name: str, teacher: Language, student: Language, known: int
) -> kmethods.Method | kmethods.Objective:
  """The method of the library that one is, or the objective of its loss."""
  row = METHODS[name]
  if isinstance(row.loss, str):
    # The experiment writes the text, so that no step draws the own one.
    own: dict[str, Any] = {}
    if row.loss in ("gkd", "distillm"):
      own["share"] = 0.0
    return kmethods.create(row.loss, **row.options, **own)
  return kmethods.stateless(row.loss(teacher, student, known))


def linear_loss(
  teacher: Language, student: Language, known: int
) -> Callable[..., Array]:
  """Half forward KL and half cross-entropy, in one pass over the logits."""
  del known
  caps = [x.config.logit_softcap for x in (student, teacher)]

  def side(outputs: nets.Outputs, cap: float | None) -> tuple[Any, fused.Head]:
    assert outputs.classifier is not None  # a decoder's
    return outputs.embedding, fused.Head(outputs.classifier[0].T, softcap=cap)

  def loss(student: nets.Outputs, teacher: nets.Outputs, labels: Array) -> Any:
    divergence, labelled = fused.linear_distillation(
      *side(student, caps[0]),
      *side(teacher, caps[1]),
      labels,
      divergence_weight=0.5,
      cross_entropy_weight=0.5,
    )
    return divergence + labelled

  return loss


def top_loss(
  teacher: Language, student: Language, known: int
) -> Callable[..., Array]:
  """Forward KL of the teacher's most probable tokens and of all others."""
  del teacher, student

  def loss(student_logits: Array, teacher_logits: Array) -> Array:
    log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(teacher_logits), known)
    return fused.sparse_divergence(student_logits, ids, log_probs)

  return loss


def sampled_loss(
  teacher: Language, student: Language, known: int
) -> Callable[..., Array]:
  """Forward KL of tokens that the teacher has drawn; unbiased."""
  del teacher, student

  def loss(student_logits: Array, teacher_logits: Array, *, key: Any) -> Array:
    drawn = fused.sample_teacher(key, teacher_logits, num_samples=known)
    return fused.sparse_divergence(
      student_logits,
      drawn.ids,
      drawn.log_probs,
      teacher_weights=drawn.weights,
      tail="drop",
    )

  return loss


METHODS: dict[str, Method] = {
  BASELINE: Method("cross-entropy alone", "no teacher", "scratch"),
  "longer": Method(
    "cross-entropy alone, twice as long",
    "no teacher, and about the time of a teacher in each step",
    "scratch",
    longer=2,
  ),
  "forward_kl": Method(
    "forward KL", "GKD with beta 0, on the corpus", "gkd", {"beta": 0.0}
  ),
  "reverse_kl": Method(
    "reverse KL", "GKD with beta 1, on the corpus", "gkd", {"beta": 1.0}
  ),
  "jsd": Method("generalized JSD", "GKD with beta 0.5, on the corpus", "gkd"),
  "skew_kl": Method(
    "skewed reverse KL", "DistiLLM's loss, on the corpus", "distillm"
  ),
  "adaptive_kl": Method(
    "adaptive KL", "AKL with half cross-entropy", "adaptive_kl"
  ),
  "linear": Method(
    "KL and labels",
    "half forward KL, half cross-entropy (fused.linear_distillation)",
    linear_loss,
  ),
  "top_k": Method(
    "top-k teacher", "forward KL of the teacher's top tokens", top_loss
  ),
  "sampled": Method(
    "sampled teacher", "forward KL of tokens that it has drawn", sampled_loss
  ),
  "on_policy": Method(
    "on-policy GKD",
    "JSD, on the student's own text in a share of the steps (own_share)",
    "gkd",
    text="own",
  ),
  "speculative": Method(
    "speculative KD",
    "forward KL, on its text with the teacher's tokens for improbable ones",
    "gkd",
    {"beta": 0.0},
    text="both",
  ),
  "seqkd": Method(
    "sequence-level KD",
    "cross-entropy on text that the teacher has written",
    "seqkd",
    text="teacher",
  ),
  "copied": Method(
    "copied layers",
    "forward KL; the student starts as layers of the teacher",
    "gkd",
    {"beta": 0.0},
    start="copied",
  ),
  "copied_scratch": Method(
    "copied layers without a teacher",
    "cross-entropy; the student starts as layers of the teacher",
    "scratch",
    start="copied",
  ),
  "distillm2": Method(
    "DistiLLM-2",
    "skewed KLs on the teacher's and on the student's text",
    "distillm2",
    text="pair",
  ),
  "dskd": Method(
    "DSKD", "hidden states mapped to the other network's head", "dskd"
  ),
  "uld": Method("ULD", "sorted probabilities, and cross-entropy", "uld"),
}
# Those of a run without --methods; the others cost more or ask less.
USUAL = tuple(METHODS)[: tuple(METHODS).index("copied_scratch") + 1]
TITLES = {name: row.title for name, row in METHODS.items()}
TITLES["teacher"] = "the teacher"


def describe() -> dict[str, tuple[str, str]]:
  """The text and the summary of methods, for `--methods help`."""
  return {
    name: (row.text, f"{row.title}: {row.summary}")
    for name, row in METHODS.items()
  }
