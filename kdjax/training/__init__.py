"""Training: learners and their parts.

A network is one pure function, a step is one pure function, and everything a
run changes is one pytree. `distill`, `adapt`, `generalize`, `finetune`,
`continue_on`, `collaborate`, `guide` and `align` make a `Learner` of networks,
a loss and an Optax optimizer; the caller compiles its functions: `jax.jit`,
`jax.pmap` or `jax.shard_map`, on one device or many, for one student or a
sweep. `fit` is a loop over them.
"""

from kdjax.methods import GradientRule, Pass
from kdjax.training.learners._adaptation import adapt
from kdjax.training.learners._collaboration import (
  collaborate,
  guide,
  stale_peers,
)
from kdjax.training.learners._continual import continue_on
from kdjax.training.learners._cross_modal import align
from kdjax.training.learners._distillation import distill
from kdjax.training.learners._finetuning import finetune
from kdjax.training.learners._generalization import generalize
from kdjax.training.learners._learner import Learner, make_learner
from kdjax.training.loop._checkpoints import Checkpoints, Restored
from kdjax.training.loop._divergence import FiniteCheck
from kdjax.training.loop._fit import FitResult, fit
from kdjax.training.loop._interruption import Interruption
from kdjax.training.loop._json_files import read_json, write_json
from kdjax.training.loop._run_errors import DivergedError, RunError
from kdjax.training.loop._run_folder import RunFolder
from kdjax.training.networks._ema import averaged_student, parameter_ema
from kdjax.training.networks._hand_over import hand_over
from kdjax.training.networks._mixed_styles import mixed_styles
from kdjax.training.networks._models import (
  Forward,
  Model,
  Network,
  Variables,
  from_linen,
  from_nnx,
)
from kdjax.training.networks._slimmable import slimmable
from kdjax.training.networks._stochastic_norms import stochastic_norms
from kdjax.training.networks._teachers import CachedTeacher, ensemble
from kdjax.training.optimizers._dot import dot, dot_gradients, dot_objective
from kdjax.training.optimizers._layerwise_training import (
  gradual_unfreezing,
  layerwise_learning_rates,
  stagewise_training,
)
from kdjax.training.optimizers._meta import (
  adapt_to_task,
  maml_losses,
  reptile_gradient,
)
from kdjax.training.optimizers._private_consensus import private_consensus
from kdjax.training.optimizers._recipes import (
  Recipe,
  cifar100_recipe,
  function_matching_recipe,
)
from kdjax.training.optimizers._restart_at import restart_at
from kdjax.training.optimizers._reversal import reversal_schedule
from kdjax.training.steps._epochs import epoch_plan, scan_epoch, scan_evaluation
from kdjax.training.steps._evaluation import make_eval_step, mean_metrics
from kdjax.training.steps._parallel import parallelize
from kdjax.training.steps._passes import LossFn, pass_loss
from kdjax.training.steps._state import TrainState
from kdjax.training.steps._steps import make_train_step
from kdjax.training.steps._sweep import grid, sweep

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
  "align",
  "averaged_student",
  "cifar100_recipe",
  "collaborate",
  "continue_on",
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
  "guide",
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
  "private_consensus",
  "read_json",
  "reptile_gradient",
  "restart_at",
  "reversal_schedule",
  "scan_epoch",
  "scan_evaluation",
  "slimmable",
  "stagewise_training",
  "stale_peers",
  "stochastic_norms",
  "sweep",
  "write_json",
)
