"""The methods of generalization that are a loss and its weight."""

from kdjax import generalization
from kdjax.methods._row import Row, Search, lift
from kdjax.methods.generalization._row_kinds import AROUND_ONE, row

ROWS: dict[str, Row] = {
  "erm": row(
    "ERM", "the mean cross-entropy of all domains, the yardstick", tuned=""
  ),
  "sd": row(
    "SD",
    "logits are small (spectral decoupling)",
    lift(generalization.sd_penalty, ("student_logits",)),
    weight=0.1,
    search=Search(0.1, 1e-5, 0.1),
  ),
  "dg_coral": row(
    "CORAL",
    "means and covariances of the domains' embeddings are equal",
    lift(generalization.coral, ("student_embeddings",)),
    search=Search(1.0, **AROUND_ONE),
  ),
  "dg_mmd": row(
    "MMD",
    "the distributions of the domains' embeddings are equal",
    lift(generalization.mmd, ("student_embeddings",)),
    search=Search(1.0, **AROUND_ONE),
  ),
}
