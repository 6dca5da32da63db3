"""A run that diverged says so, and keeps its last finite state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.training import Checkpoints, DivergedError, FiniteCheck


def test_what_is_not_finite_is_named():
  check = FiniteCheck(stage="s", name="fit")
  values = {"a": np.array([1.0, np.nan, np.inf]), "n": np.arange(3)}
  message = "^fit: diverged at step 3 of s: a is nan in 2 of 3; expected"
  with pytest.raises(DivergedError, match=message) as caught:
    check(3, values)
  assert (caught.value.step, caught.value.stage) == (3, "s")
  assert caught.value.terms == ("a",)
  many = {"train/loss": np.nan} | {f"loss{i}": -np.inf for i in range(9)}
  message = r"1: loss0 is -inf, .* loss3 is -inf, and 6 others; "
  with pytest.raises(DivergedError, match=message):
    FiniteCheck()(1, many)
  # A key, integers and half precision.
  check(1, {"w": jnp.ones(3, jnp.bfloat16), "key": jax.random.key(0), "n": 3})
  with pytest.raises(DivergedError, match=r"w\.b is nan in 1 of 2"):
    check(1, {"w": {"b": jnp.array([1, jnp.nan], jnp.bfloat16)}})


def test_a_run_that_goes_on_keeps_its_last_finite_checkpoint(tmp_path):
  state = {"w": jnp.zeros(2)}
  with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
    check = FiniteCheck("continue", checkpoints)
    for step in (1, 2, 3, 4):
      loss = 0.5 if step < 3 else np.nan
      if step == 3:
        message = r"step 3: loss is nan; the run goes on.* kept in '.*finite"
        with pytest.warns(UserWarning, match=message):
          check(step, {"loss": loss})
      check(step, {"loss": loss})
      checkpoints.save(step, state)
  # A resumed run does not take it for a finite one.
  with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
    assert checkpoints.restore(state).step == 4
    with pytest.warns(UserWarning, match="step 5"):
      FiniteCheck("continue", checkpoints)(5, {"loss": np.nan})
  with Checkpoints(tmp_path / "finite" / "checkpoints") as kept:
    assert kept.restore(state).step == 2
