"""Model selection: validators, transferability, tests for negative transfer.

Validators without target labels, transferability scores of pretrained models,
the selection rules of domain generalization, and tests for negative transfer. A
higher score means a better model.
"""

from kdjax.selection._domainbed_rules import (
  Selection,
  leave_one_domain_out_selection,
  oracle_selection,
  training_domain_selection,
)
from kdjax.selection._h_score import h_score
from kdjax.selection._importance_weighted_validation import (
  dev_score,
  importance_weighted_score,
)
from kdjax.selection._leep import leep
from kdjax.selection._logme import logme
from kdjax.selection._nce import nce
from kdjax.selection._negative_transfer import (
  NegativeTransferTest,
  TransferGain,
  negative_transfer_test,
  transfer_gain,
)
from kdjax.selection._prediction_scores import (
  SCORES,
  bnm_score,
  entropy_score,
  im_score,
)
from kdjax.selection._reverse_validation import reverse_validation
from kdjax.selection._snd import snd_score
from kdjax.selection._teacher_ranking import TeacherRanking, rank_teachers
from kdjax.selection._transrate import transrate

__all__ = (
  "SCORES",
  "NegativeTransferTest",
  "Selection",
  "TeacherRanking",
  "TransferGain",
  "bnm_score",
  "dev_score",
  "entropy_score",
  "h_score",
  "im_score",
  "importance_weighted_score",
  "leave_one_domain_out_selection",
  "leep",
  "logme",
  "nce",
  "negative_transfer_test",
  "oracle_selection",
  "rank_teachers",
  "reverse_validation",
  "snd_score",
  "training_domain_selection",
  "transfer_gain",
  "transrate",
)
