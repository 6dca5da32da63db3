"""Training: learners and their parts.

A network is one pure function, a step is one pure function, and everything a
run changes is one pytree. `distill`, `adapt`, `generalize`, `finetune`,
`continue_on`, `collaborate`, `guide` and `align` make a `Learner` of networks,
a loss and an Optax optimizer; the caller compiles its functions: `jax.jit`,
`jax.pmap` or `jax.shard_map`, on one device or many, for one student or a
sweep. `fit` is a loop over them.
"""

from kdjax.training.learners._doors import (
  adapt,
  align,
  collaborate,
  continue_on,
  distill,
  finetune,
  generalize,
  guide,
  stale_peers,
)
from kdjax.training.learners._hand_over import hand_over
from kdjax.training.learners._learner import Learner, learner
from kdjax.training.learners._sweep import grid, sweep
from kdjax.training.loop._checkpoints import Checkpoints, Restored
from kdjax.training.loop._divergence import FiniteCheck
from kdjax.training.loop._fit import fit
from kdjax.training.loop._interruption import Interruption
from kdjax.training.loop._json_files import read_json, write_json
from kdjax.training.loop._results import FitResult
from kdjax.training.loop._run_errors import DivergedError, RunError
from kdjax.training.loop._run_folder import RunFolder
from kdjax.training.networks._models import (
  Forward,
  Model,
  Network,
  Variables,
  from_linen,
  from_nnx,
)
from kdjax.training.networks._slimmable import slimmable
from kdjax.training.networks._teachers import CachedTeacher, ensemble
from kdjax.training.optimizers._recipes import (
  Recipe,
  cifar100_recipe,
  function_matching_recipe,
)
from kdjax.training.optimizers._reversal import reversal_schedule
from kdjax.training.steps._averaged_student import averaged_student
from kdjax.training.steps._epochs import epoch_plan, scan_epoch, scan_evaluation
from kdjax.training.steps._evaluation import make_eval_step, mean_metrics
from kdjax.training.steps._parallel import parallelize
from kdjax.training.steps._passes import LossFn, pass_loss
from kdjax.training.steps._state import TrainState
from kdjax.training.steps._steps import make_train_step

__all__ = (
  "CachedTeacher",
  "Checkpoints",
  "DivergedError",
  "FiniteCheck",
  "FitResult",
  "Forward",
  "Interruption",
  "Learner",
  "LossFn",
  "Model",
  "Network",
  "Recipe",
  "Restored",
  "RunError",
  "RunFolder",
  "TrainState",
  "Variables",
  "adapt",
  "align",
  "averaged_student",
  "cifar100_recipe",
  "collaborate",
  "continue_on",
  "distill",
  "ensemble",
  "epoch_plan",
  "finetune",
  "fit",
  "from_linen",
  "from_nnx",
  "function_matching_recipe",
  "generalize",
  "grid",
  "guide",
  "hand_over",
  "learner",
  "make_eval_step",
  "make_train_step",
  "mean_metrics",
  "parallelize",
  "pass_loss",
  "read_json",
  "reversal_schedule",
  "scan_epoch",
  "scan_evaluation",
  "slimmable",
  "stale_peers",
  "sweep",
  "write_json",
)
