"""Methods: every published method, whole.

`create("mldg")` is MLDG, not its loss; `names` lists the methods and `describe`
tells what a method is. A loss alone is the shortest method: `stateless` makes
an objective of it, `modular` of one with learnable parts, and `combine` adds
several up. Hyper-parameters live in the objective's state, as arrays: changing
one does not recompile, and many students are a vmap over states.
"""

from kdjax.methods._combine import combine
from kdjax.methods._forms import bound_inputs, from_loss, is_frozen, make_passes
from kdjax.methods._method import INPUTS, Method, Needs, Pass, Update
from kdjax.methods._modular import modular
from kdjax.methods._nearest import nearest
from kdjax.methods._objective import NO_LOSS, Objective, loss_metric, stateless
from kdjax.methods._row import Row, Search
from kdjax.methods._table import create, describe, names
from kdjax.methods._updates import (
  Turn,
  alternate,
  alternate_networks,
  gradient_update,
)
from kdjax.methods.collaboration._sandwich import sandwich_views
from kdjax.methods.finetuning._meta import (
  adapt_to_task,
  maml_losses,
  reptile_gradient,
)
from kdjax.methods.language._intermediate_matches import intermediate_matches
from kdjax.methods.optimizers._layerwise_training import (
  gradual_unfreezing,
  layerwise_learning_rates,
  stagewise_training,
)
from kdjax.methods.optimizers._parameter_ema import parameter_ema
from kdjax.methods.optimizers._restart_at import restart_at

__all__ = (
  "INPUTS",
  "NO_LOSS",
  "Method",
  "Needs",
  "Objective",
  "Pass",
  "Row",
  "Search",
  "Turn",
  "Update",
  "adapt_to_task",
  "alternate",
  "alternate_networks",
  "bound_inputs",
  "combine",
  "create",
  "describe",
  "from_loss",
  "gradient_update",
  "gradual_unfreezing",
  "intermediate_matches",
  "is_frozen",
  "layerwise_learning_rates",
  "loss_metric",
  "make_passes",
  "maml_losses",
  "modular",
  "names",
  "nearest",
  "parameter_ema",
  "reptile_gradient",
  "restart_at",
  "sandwich_views",
  "stagewise_training",
  "stateless",
)
