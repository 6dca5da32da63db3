"""Training: learners, and what they are made of.

A network is one pure function, a step is one pure function, and everything a
run changes is one pytree. `distill`, `adapt`, `generalize` and `finetune` make
a `Learner` of networks, a loss and an Optax optimizer; the caller compiles its
functions: `jax.jit`, `jax.pmap` or `jax.shard_map`, on one device or many, for
one student or a sweep. `fit` is a loop over them.
"""

from kdjax.training._adaptation import adapt
from kdjax.training._checkpoints import Checkpoints
from kdjax.training._checkpoints import Restored
from kdjax.training._distillation import distill
from kdjax.training._divergence import FiniteCheck
from kdjax.training._dot import dot
from kdjax.training._dot import dot_gradients
from kdjax.training._dot import dot_objective
from kdjax.training._ema import averaged_student
from kdjax.training._ema import parameter_ema
from kdjax.training._epochs import epoch_plan
from kdjax.training._epochs import scan_epoch
from kdjax.training._epochs import scan_evaluation
from kdjax.training._evaluation import make_eval_step
from kdjax.training._evaluation import mean_metrics
from kdjax.training._finetuning import finetune
from kdjax.training._fit import FitResult
from kdjax.training._fit import fit
from kdjax.training._generalization import generalize
from kdjax.training._hand_over import hand_over
from kdjax.training._interruption import Interruption
from kdjax.training._json_files import read_json
from kdjax.training._json_files import write_json
from kdjax.training._layerwise_training import gradual_unfreezing
from kdjax.training._layerwise_training import layerwise_learning_rates
from kdjax.training._learner import Learner
from kdjax.training._learner import make_learner
from kdjax.training._meta import adapt_to_task
from kdjax.training._meta import maml_losses
from kdjax.training._meta import reptile_gradient
from kdjax.training._mixed_styles import mixed_styles
from kdjax.training._models import Forward
from kdjax.training._models import Model
from kdjax.training._models import Network
from kdjax.training._models import Variables
from kdjax.training._models import from_linen
from kdjax.training._models import from_nnx
from kdjax.training._parallel import parallelize
from kdjax.training._passes import LossFn
from kdjax.training._passes import Pass
from kdjax.training._passes import pass_loss
from kdjax.training._recipes import Recipe
from kdjax.training._recipes import cifar100_recipe
from kdjax.training._recipes import function_matching_recipe
from kdjax.training._restart_at import restart_at
from kdjax.training._reversal import reversal_schedule
from kdjax.training._run_errors import DivergedError
from kdjax.training._run_errors import RunError
from kdjax.training._run_folder import RunFolder
from kdjax.training._state import TrainState
from kdjax.training._steps import GradientRule
from kdjax.training._steps import make_train_step
from kdjax.training._stochastic_norms import stochastic_norms
from kdjax.training._sweep import grid
from kdjax.training._sweep import sweep
from kdjax.training._teachers import CachedTeacher
from kdjax.training._teachers import ensemble

__all__ = (
  "CachedTeacher",
  "Checkpoints",
  "DivergedError",
  "FiniteCheck",
  "FitResult",
  "Forward",
  "GradientRule",
  "Interruption",
  "Learner",
  "LossFn",
  "Model",
  "Network",
  "Pass",
  "Recipe",
  "Restored",
  "RunError",
  "RunFolder",
  "TrainState",
  "Variables",
  "adapt",
  "adapt_to_task",
  "averaged_student",
  "cifar100_recipe",
  "distill",
  "dot",
  "dot_gradients",
  "dot_objective",
  "ensemble",
  "epoch_plan",
  "finetune",
  "fit",
  "from_linen",
  "from_nnx",
  "function_matching_recipe",
  "generalize",
  "gradual_unfreezing",
  "grid",
  "hand_over",
  "layerwise_learning_rates",
  "make_eval_step",
  "make_learner",
  "make_train_step",
  "maml_losses",
  "mean_metrics",
  "mixed_styles",
  "parallelize",
  "parameter_ema",
  "pass_loss",
  "read_json",
  "reptile_gradient",
  "restart_at",
  "reversal_schedule",
  "scan_epoch",
  "scan_evaluation",
  "stochastic_norms",
  "sweep",
  "write_json",
)
