"""Meta-learning for domain generalization (MLDG)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._gradient_rule import GradientRule
from kdjax.methods.generalization._domain_rules import (
  Loss,
  of_domain,
  optax_update,
)


def mldg_gradients(
  inner: optax.GradientTransformation,
  *,
  beta: ArrayLike = 1.0,
  first_order: bool = True,
) -> GradientRule:
  """Gradient rule of MLDG: a step on all domains but one must help on that one.

  Of `kdjax.generalization.mldg`; the first axis of every entry of the
  batch is that of the domains. With a single domain that is the domain itself.
  Metrics and batch statistics are those of one more forward pass, of all
  domains.

  Args:
    inner: the optimizer of the inner step, which starts anew each time; Adam
      in DomainBed.
    beta: the weight of the domain that is held out, kept in the rule's state;
      1 in DomainBed.
    first_order: whether the inner step is without second derivatives, as in
      DomainBed.

  Returns:
    A rule for `kdjax.training.generalize`.

  References:
    Li et al., `Learning to generalize: meta-learning for domain generalization
    <https://arxiv.org/abs/1710.03463>`_, 2018.
  """

  def init(params: Any) -> Any:
    del params
    return {"beta": jnp.asarray(beta, float)}

  def apply(
    loss: Loss,
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    *,
    axis_name: str | None = None,
  ) -> tuple[tuple[Array, Any], Any, Mapping[str, Any], Any]:
    order = jax.random.permutation(key, len(jax.tree.leaves(batch)[0]))
    train, test = (
      jax.tree.map(lambda x, part=part: x[part], batch)
      for part in (order[1:] if len(order) > 1 else order, order[:1])
    )

    def meta(params: Any) -> Array:
      return generalization.mldg(
        of_domain(loss),
        params,
        train,
        test,
        inner_update=optax_update(inner, axis_name),
        inner_state=inner.init(params),
        beta=state["beta"],
        first_order=first_order,
      )

    gradients = jax.grad(meta)(params)
    return loss(params, batch), gradients, {}, state

  return GradientRule(init, apply)
