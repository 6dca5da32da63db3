"""The methods for transformers and language models, as their authors weigh."""

from typing import Any

from kdjax import distillation, language
from kdjax.methods._row import Row, lift
from kdjax.methods.language._dskd import dskd, dskd_cma
from kdjax.methods.language._token_losses import (
  distillm2,
  minillm,
  on_policy_distillation,
  uld,
)
from kdjax.methods.language._transformers import (
  distilbert,
  minilm,
  minilm_v2,
  pkd,
  tinybert,
  tinybert_layers,
)


def _row(title: str, summary: str, method: Any, **needs: Any) -> Row:
  options: dict[str, Any] = {"networks": ("teacher",), "cross_entropy": 0.0}
  return Row(title, summary, method, area="language", **(options | needs))


ROWS: dict[str, Row] = {
  "tinybert": _row(
    "TinyBERT, Jiao 2020",
    "soft predictions, after a stage of attention scores and hidden states",
    tinybert,
    initialization=tinybert_layers,
    initialization_epochs=20,
    source="Pretrained-Language-Model/TinyBERT, task_distill.py",
  ),
  "distilbert": _row(
    "DistilBERT, Sanh 2019",
    "soft predictions, masked tokens, and the cosine of last hidden states",
    distilbert,
    cross_entropy=2.0,
    kd=5.0,
    temperature=2.0,
    source="transformers, research_projects/distillation",
  ),
  "minilm": _row(
    "MiniLM, Wang 2020",
    "the last layer's attention and relations between its values",
    minilm,
    source="paper",
  ),
  "minilm_v2": _row(
    "MiniLMv2, Wang 2021",
    "one layer's relations between queries, keys and values",
    minilm_v2,
    source="paper",
  ),
  "pkd": _row(
    "PKD, Sun 2019",
    "first tokens of every k-th layer, beside soft predictions",
    pkd,
    weight=100.0,
    cross_entropy=0.5,
    kd=0.5,
    temperature=10.0,
    source="paper, the middle of the searched ranges",
  ),
  "seqkd": _row(
    "sequence-level KD, Kim 2016",
    "labels are the text that the teacher has written",
    None,
    networks=(),
    cross_entropy=1.0,
    tuned="",
    source="paper",
  ),
  "gkd": _row(
    "GKD, Agarwal 2024",
    "generalized JSD on the student's own text in half of the steps",
    lift(distillation.generalized_jsd_loss, beta=0.5),
    source="TRL, GKDConfig",
  ),
  "distillm": _row(
    "DistiLLM, Ko 2024",
    "skew reverse KL, on text of the student that is used again",
    lift(distillation.skew_reverse_kl_loss, skew=0.1),
    source="distillm, scripts/gpt2",
  ),
  "distillm2": _row(
    "DistiLLM-2, Ko 2025",
    "skew KL on the teacher's text, skew reverse KL on the student's",
    distillm2,
    views=("on_policy",),
    source="distillm-2, distillm_trainer.py",
  ),
  "adaptive_kl": _row(
    "AKL, Wu 2025",
    "forward KL for the teacher's head, reverse KL for its tail",
    lift(language.adaptive_kl_loss),
    weight=0.5,
    cross_entropy=0.5,
    source="DSKD, scripts, kd_rate",
  ),
  "minillm": _row(
    "MiniLLM, Gu 2024",
    "policy gradient of the reverse KL over whole texts of the student",
    minillm,
    source="LMOps/minillm, without the loss on other text",
  ),
  "on_policy_distillation": _row(
    "on-policy distillation, Lu 2025",
    "policy gradient with each token's log-ratio as its advantage",
    on_policy_distillation,
    source="tinker-cookbook, train_on_policy.py",
  ),
  "uld": _row(
    "ULD, Boizard 2025",
    "sorted probabilities, for a teacher with another tokenizer",
    uld,
    weight=1.5,
    cross_entropy=1.0,
    source="llm-recipes, distillation configuration",
  ),
  "dskd": _row(
    "DSKD, Zhang 2024",
    "hidden states mapped to the other network's head, in both directions",
    dskd,
    weight=0.5,
    cross_entropy=0.5,
    source="DSKD, scripts, kd_rate",
  ),
  "dskd_cma": _row(
    "DSKD with CMA, Zhang 2024",
    "the same between two tokenizers, aligned by attention",
    dskd_cma,
    weight=0.5,
    cross_entropy=0.5,
    source="DSKD, scripts, kd_rate",
  ),
}
