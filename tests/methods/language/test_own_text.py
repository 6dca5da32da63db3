"""GKD and DistiLLM read the student's own text, or say that they lack it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import distillation, methods, training
from tests.methods import learners

KEY = jax.random.key(0)
ON = ("tokens", "attention_mask")


def made(name, views=("on_policy",), **options):
  student, teacher = learners.text_network(1), learners.text_network(1)
  return training.distill(
    student,
    learners.model_of(teacher),
    methods.create(name, **options),
    optax.sgd(1.0),
    on=ON,
    views={x: lambda key, batch: batch["on_policy_tokens"] for x in views},
  )


@pytest.mark.parametrize("name", ["gkd", "distillm"])
def test_own_text_is_asked_for(name):
  with pytest.raises(ValueError, match=f"{name} reads the view 'on_policy'"):
    made(name, views=())
  batch = learners.text_batch()
  batch.pop("on_policy_mask")
  with pytest.raises(ValueError, match=f"{name}: batch has .*on_policy_mask"):
    made(name).init(KEY, batch)
  made(name, views=(), share=0.0)
  with pytest.raises(ValueError, match=f"{name}: share is 2"):
    methods.create(name, share=2.0)


@pytest.mark.slow
def test_a_share_of_the_steps_is_on_own_text():
  batch = learners.text_batch()
  learner = made("gkd")
  state = learner.init(KEY, batch)
  _, metrics = jax.jit(jax.vmap(learner.step, (None, None, None, 0)))(
    state, learner.frozen, batch, jax.random.split(KEY, 200)
  )
  totals, counts = metrics["loss"]
  student = learners.text_network(1).forward
  expected = []
  for prefix in ("", "on_policy_"):
    inputs = {
      "tokens": batch[f"{prefix}tokens"],
      "attention_mask": batch["attention_mask"],
    }
    ours, theirs = (
      student(x, inputs, train=False, key=None)[0].logits
      for x in (state.student, learner.frozen["teacher"])
    )
    losses = distillation.generalized_jsd_loss(ours, theirs, beta=0.5)
    expected.append(np.mean(losses, where=np.asarray(batch[f"{prefix}mask"])))
  values = totals / counts
  own = jnp.isclose(values, expected[1], rtol=1e-4)
  assert np.all(own | jnp.isclose(values, expected[0], rtol=1e-4))
  assert 0.4 < own.mean() < 0.6
