"""Methods on the stages of student and teacher: what is compared with what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillation
from kdjax import objectives
from kdjax.nets import Outputs

KEY = jax.random.key(0)
MASK = np.array([True, True, False, True])
BATCH = {"mask": jnp.asarray(MASK)}


def outputs(seed, sizes=(4, 4, 2), widths=(3, 4, 6)):
  """A network with a stem and two stages."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)

  preactivations = {
    f"f{i}": draw(4, size, size, width)
    for i, (size, width) in enumerate(zip(sizes, widths, strict=True))
  }
  return jax.tree.map(
    jnp.asarray,
    Outputs(
      logits=draw(4, 3),
      features=jax.tree.map(lambda x: np.maximum(x, 0), preactivations),
      embedding=draw(4, widths[-1]),
      preactivations=preactivations,
      normalizations={
        name: (draw(x.shape[-1]), draw(x.shape[-1]))
        for name, x in preactivations.items()
      },
    ),
  )


STUDENT, TEACHER = outputs(0), outputs(1)
WIDE = outputs(2, widths=(3, 5, 8))
ALL = ("fitnet", "at", "nst", "fsp", "ab", "factor_transfer", "kdsvd", "ofd")


def run(objective, student, teacher):
  """The initial parameters and state, and what applying the objective gives."""

  @jax.jit
  def program(student, teacher):
    params, state = objective.init(KEY, student, teacher)
    loss, state, _ = objective.apply(
      params, state, student, teacher, BATCH, KEY
    )
    return params, state, loss

  return program(student, teacher)


def mean(values):
  return np.mean(np.asarray(values)[MASK])


def stages(side, names=("f1", "f2")):
  return [
    [getattr(outputs, side)[name] for name in names]
    for outputs in (STUDENT, TEACHER)
  ]


@pytest.mark.parametrize(
  ("objective", "loss"),
  [
    (
      objectives.at(power=1.0),
      functools.partial(distillation.at_loss, power=1),
    ),
    (objectives.nst(), distillation.nst_loss),
  ],
)
def test_stages_without_the_stem_are_summed(objective, loss):
  *_, got = run(objective, STUDENT, TEACHER)
  losses = jax.jit(lambda *stages: [*map(loss, *stages)])
  expected = mean(sum(losses(*stages("features"))))
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_fsp_starts_at_the_stem():
  *_, got = run(objectives.fsp(), STUDENT, TEACHER)
  student, teacher = stages("features", ("f0", "f1", "f2"))
  loss = distillation.fsp_loss
  expected = jax.jit(lambda s, t: loss(s[:2], t[:2]) + loss(s[1:], t[1:]))(
    student, teacher
  )
  np.testing.assert_allclose(got, mean(expected), rtol=1e-5)


def test_activation_boundaries_weigh_each_stage_half_of_the_next():
  """Maps of one shape need no connector."""
  params, _, got = run(objectives.ab(margin=0.5), STUDENT, TEACHER)
  assert not jax.tree.leaves(params)
  loss = functools.partial(distillation.ab_loss, margin=0.5)
  losses = jax.jit(lambda *stages: [*map(loss, *stages)])
  shallow, deep = losses(*stages("preactivations"))
  np.testing.assert_allclose(got, mean(shallow / 2 + deep), rtol=1e-5)


def test_overhaul_connects_normalizes_and_halves():
  params, _, got = run(objectives.ofd(), STUDENT, WIDE)

  @jax.jit
  def loss(student, teacher, normalization):
    margin = distillation.ofd_margin(*normalization)
    return distillation.ofd_loss(student, teacher, margin)

  losses = []
  for i, name in enumerate(("f1", "f2")):
    kernel = params[i]["convolution"]["kernel"][0, 0]
    x = np.float64(STUDENT.preactivations[name]) @ np.float64(kernel)
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    losses.append(
      loss(np.float32(x), WIDE.preactivations[name], WIDE.normalizations[name])
    )
  np.testing.assert_allclose(got, mean(losses[0] / 2 + losses[1]), rtol=1e-4)


@pytest.mark.parametrize(
  ("old", "new", "kernel"),
  [
    (4, 2, (3, 3, 4, 5)),
    (2, 4, (4, 4, 4, 5)),
    (1, 4, (8, 8, 4, 5)),
    (4, 3, (2, 2, 4, 5)),
    (1, 1, (1, 1, 4, 5)),
  ],
)
def test_the_hint_regressor_fits_the_shapes(old, new, kernel):
  student = outputs(0, sizes=(8, 8, old), widths=(3, 3, 4))
  teacher = outputs(1, sizes=(8, 8, new), widths=(3, 3, 5))
  regress = functools.partial(run, objectives.fitnet())
  params, *_ = jax.eval_shape(regress, student, teacher)
  assert params["convolution"]["kernel"].shape == kernel
  if old not in (2, 4) or new not in (2, 4):
    return  # other sizes of the same layers
  _, state, loss = regress(student, teacher)
  assert np.isfinite(loss)
  moved = state["module"]["norm"]["mean"]
  assert np.any(moved != 0)


def test_factor_transfer_freezes_what_the_first_stage_has_learned():
  """Both stages have one form; the last keeps the encoder out of params."""
  first = objectives.factor_transfer_pretraining()
  second = objectives.factor_transfer()
  params, state = jax.jit(lambda: first.init(KEY, STUDENT, WIDE))()
  params["paraphraser"] = jax.tree.map(lambda x: -x, params["paraphraser"])

  def loss(objective, params, state, student, teacher):
    value, state, _ = objective.apply(
      params, state, student, teacher, BATCH, KEY
    )
    return value, state

  gradient = jax.jit(
    jax.value_and_grad(loss, (1, 3, 4), has_aux=True), static_argnums=0
  )
  (_, moved), gradients = gradient(first, params, state, STUDENT, WIDE)
  assert all(map(np.any, jax.tree.leaves(gradients[0]["paraphraser"])))
  for leaf in jax.tree.leaves((gradients[0]["translator"], gradients[1:])):
    np.testing.assert_array_equal(leaf, 0)
  after = jax.eval_shape(lambda: second.init(KEY, STUDENT, WIDE))
  assert [x.shape for x in jax.tree.leaves(after)] == [
    x.shape for x in jax.tree.leaves((params, moved))
  ]
  (value, kept), gradients = gradient(second, params, moved, STUDENT, WIDE)
  assert np.any(gradients[1].features["f2"] != 0)
  for leaf in jax.tree.leaves((gradients[0]["paraphraser"], gradients[2])):
    np.testing.assert_array_equal(leaf, 0)
  # What the first step finds counts, its last update included; no later one.
  decayed = params | {
    "paraphraser": jax.tree.map(lambda x: 0.9 * x, params["paraphraser"])
  }
  (later, _), _ = gradient(second, decayed, kept, STUDENT, WIDE)
  (other, _), _ = gradient(second, decayed, moved, STUDENT, WIDE)
  assert later == value
  assert other != value


def test_review_fuses_with_what_is_deeper():
  """The shallowest stage's loss alone depends on the embedding too."""
  objective = objectives.review_kd()

  @jax.jit
  def gradients(student):
    params, state = objective.init(KEY, student, WIDE)

    def loss(params, student):
      return objective.apply(params, state, student, WIDE, BATCH, KEY)[0]

    return jax.grad(loss, (0, 1))(params, student)

  by_params, by_student = gradients(STUDENT)
  kernel = by_params[2]["expand"]["convolution"]["kernel"]
  assert kernel.shape == (3, 3, 6, 8)
  assert "attention" in by_params[0]
  assert "attention" not in by_params[2]
  for i in range(2):
    assert np.any(by_params[i]["attention"]["kernel"] != 0)
  assert np.any(by_student.embedding != 0)
  np.testing.assert_array_equal(by_student.features["f0"], 0)


@pytest.mark.parametrize("name", ["fitnet", "afd"])
def test_float64_stays_float64(name):
  """Of features, parameters and statistics; else differences are noise."""
  with jax.enable_x64(True):
    student, teacher = jax.tree.map(jnp.float64, (STUDENT, WIDE))
    objective = getattr(objectives, name)()
    params, state = jax.jit(lambda: objective.init(KEY, student, teacher))()

    @jax.jit
    def along(step):
      def loss(step):
        features = jax.tree.map(
          lambda x: x + step * jnp.cos(x), student.features
        )
        moved = student._replace(features=features)
        value, after, _ = objective.apply(
          params, state, moved, teacher, BATCH, KEY
        )
        return value, after

      return jax.jvp(loss, (step,), (1.0,))

    (value, after), (slope, _) = along(0.0)
    ahead, behind = (float(along(step)[0][0]) for step in (1e-6, -1e-6))
  assert value.dtype == np.float64
  np.testing.assert_allclose((ahead - behind) / 2e-6, slope, rtol=1e-6)
  assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(
    lambda x: x.dtype, state
  )


@pytest.mark.parametrize("name", [*ALL, "review_kd"])
def test_units_are_maps_of_one_position(name):
  """Every method takes an MLP, as far as shapes tell."""

  def flatten(outputs):
    return jax.tree.map(lambda x: x[:, 0, 0] if x.ndim == 4 else x, outputs)

  objective = getattr(objectives, name)()
  shapes = jax.eval_shape(flatten, (STUDENT, TEACHER))
  params, state = jax.eval_shape(lambda: objective.init(KEY, *shapes))
  loss, *_ = jax.eval_shape(objective.apply, params, state, *shapes, BATCH, KEY)
  assert loss.shape == ()


def test_errors_say_what_is_missing():
  bare = STUDENT._replace(preactivations=None)
  with pytest.raises(ValueError, match="student has no preactivations"):
    objectives.ab().init(KEY, bare, TEACHER)
  with pytest.raises(ValueError, match="teacher has no preactivations"):
    objectives.review_kd().init(KEY, STUDENT, bare)
  with pytest.raises(ValueError, match="teacher has no normalizations"):
    run(objectives.ofd(), STUDENT, TEACHER._replace(normalizations=None))
  with pytest.raises(ValueError, match="student has a map of"):
    run(objectives.fitnet(), STUDENT, outputs(1, sizes=(8, 8, 3)))
  with pytest.raises(ValueError, match=r"teacher_features\[0\] has shape"):
    run(objectives.kdsvd(), STUDENT, WIDE)
  tall = TEACHER._replace(
    features={k: x[:, :1] for k, x in outputs(1, (8, 8, 8)).features.items()}
  )
  with pytest.raises(ValueError, match="at most as high and as wide"):
    run(objectives.at(), STUDENT, tall)
