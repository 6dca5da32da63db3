"""Model selection: validators, transferability, tests for negative transfer.

Validators without target labels, transferability scores of pretrained models,
the selection rules of domain generalization, and tests for negative transfer. A
higher score means a better model.
"""

from kdjax.selection._domainbed_rules import Selection
from kdjax.selection._domainbed_rules import leave_one_domain_out_selection
from kdjax.selection._domainbed_rules import oracle_selection
from kdjax.selection._domainbed_rules import training_domain_selection
from kdjax.selection._h_score import h_score
from kdjax.selection._importance_weighted_validation import dev_score
from kdjax.selection._importance_weighted_validation import (
  importance_weighted_score,
)
from kdjax.selection._leep import leep
from kdjax.selection._logme import logme
from kdjax.selection._nce import nce
from kdjax.selection._negative_transfer import NegativeTransferTest
from kdjax.selection._negative_transfer import TransferGain
from kdjax.selection._negative_transfer import negative_transfer_test
from kdjax.selection._negative_transfer import transfer_gain
from kdjax.selection._prediction_scores import SCORES
from kdjax.selection._prediction_scores import bnm_score
from kdjax.selection._prediction_scores import entropy_score
from kdjax.selection._prediction_scores import im_score
from kdjax.selection._reverse_validation import reverse_validation
from kdjax.selection._snd import snd_score
from kdjax.selection._teacher_ranking import TeacherRanking
from kdjax.selection._teacher_ranking import rank_teachers
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
