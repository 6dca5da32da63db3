"""Meta-learning for domain generalization (MLDG)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Method
from kdjax.methods._row import Search
from kdjax.methods._updates import gradient_update
from kdjax.methods.generalization._domain_rules import (
  Loss,
  of_domain,
  optax_update,
)
from kdjax.methods.generalization._row_kinds import AROUND_ONE, row


def _mldg(
  *,
  beta: ArrayLike = 1.0,
  meta_test_domains: int = 2,
  first_order: bool = True,
) -> Method:
  """By `kdjax.generalization.mldg`, as DomainBed pairs the domains.

  Each of the training domains takes an inner step of its own, by the learner's
  optimizer with fresh moments, and is paired with one of the held-out domains,
  in a cycle. The gradient is the sum over pairs, over the number of domains.
  Of fewer domains, all but one are held out at most; a single domain is its
  own pair. The paper takes one step on all training domains together.
  """
  ops.check_integer("mldg: meta_test_domains", meta_test_domains, 1)

  def gradients(
    loss: Loss,
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    *,
    axis_name: str | None = None,
  ) -> tuple[Any, Any]:
    del axis_name  # The optimizer of each step averages over the devices.
    domains = len(jax.tree.leaves(batch)[0])
    held = min(meta_test_domains, max(domains - 1, 1))
    order = jax.random.permutation(key, domains)
    train = order[: domains - held] if domains > 1 else order
    test = jnp.resize(order[-held:], train.shape)

    def pair_gradient(train: Array, test: Array) -> Any:
      one, other = (
        jax.tree.map(lambda x, i=i: x[i][None], batch) for i in (train, test)
      )
      optimizer = state["inner"]
      return jax.grad(
        lambda params: generalization.mldg(
          of_domain(loss),
          params,
          one,
          other,
          inner_update=optax_update(optimizer),
          inner_state=optimizer.init(params),
          beta=state["beta"],
          first_order=first_order,
        )
      )(params)

    found = [pair_gradient(*pair) for pair in zip(train, test, strict=True)]
    total = jax.tree.map(lambda *x: sum(x) / domains, *found)
    return loss(params, batch), total

  return Method(
    update=gradient_update(gradients, hyperparameters={"beta": beta})
  )


ROWS = {
  "mldg": row(
    "MLDG",
    "a step on one domain must help on a domain that is held out",
    _mldg,
    tuned="beta",
    search=Search(1.0, **AROUND_ONE),
  ),
}
