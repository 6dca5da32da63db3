"""Laws that hold for every loss, and the programs that show them.

A test module lists its losses as cases and asks all laws of each:

  CASES = {
    "kd": laws.Case(kd_loss, (STUDENT, TEACHER, LABELS), {"temperature": 4.0}),
    "sp": laws.Case(sp_loss, (STUDENT, TEACHER), coupled=True),
  }

  @pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
  def test_law(name, law):
    law(CASES[name])

A law is asked where it can fail: without a hyper-parameter nothing compiles
again, and of a loss that is not coupled an empty mask and a single example only
test `masked_mean`. Each case compiles one program for most laws, so put few
cases of a method. That eager and compiled values agree is seen in the
docstrings, whose examples run eagerly.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import PartitionSpec as P

from kdjax.ops import masked_mean

DEVICES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A loss, and arguments of 16 examples to try it on.

  Attributes:
    loss: one value an example, or batch-coupled: with `where`, `axis_name`.
    arguments: NumPy arrays `[16, ...]` in float32 or int, or lists of such;
      the student's first, then the teacher's, then others.
    hyper: hyper-parameters that may be traced, at values that matter.
    coupled: whether it is batch-coupled.
    options: keywords that are no numbers.
    extremes: factors by which student and teacher are stretched to ask for
      finite values and gradients.
    tolerance: relative, of float32 against float32 in another order.
    shared: positions of arguments without an axis of examples.
    partly: positions of arguments of which not every entry counts.
    unused: positions of arguments that do not count.
  """

  loss: Callable[..., Any]
  arguments: Sequence[Any]
  hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)
  coupled: bool = False
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  extremes: Sequence[float] = (0.0, 1e-4, 1e4)
  tolerance: float = 1e-4
  shared: Sequence[int] = ()
  partly: Sequence[int] = ()
  unused: Sequence[int] = ()

  @property
  def mask(self):
    """Uneven over eight devices: the first has none, the last one."""
    mask = np.ones(16, bool)
    mask[[0, 1, 4, 15]] = False
    return mask

  def values(self, arguments, hyper, **options):
    """Calls the loss; the masks only if it is batch-coupled."""
    return self.loss(*arguments, **hyper, **self.options, **options)

  def mean(self, arguments, hyper, where, axis_name=None):
    """The loss of the batch."""
    if self.coupled:
      return self.values(arguments, hyper, where=where, axis_name=axis_name)
    values = self.values(arguments, hyper)
    return masked_mean(values, where, axis_name=axis_name)

  def step(self, arguments, hyper, where, weights, axis_name):
    """The loss and its gradient by weights that scale the student."""

    def loss(weights):
      student = jax.tree.map(
        lambda x, w: x * w.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)),
        arguments[0],
        weights,
      )
      return self.mean([student, *arguments[1:]], hyper, where, axis_name)

    value, gradient = jax.value_and_grad(loss)(weights)
    return value, jax.lax.pmean(gradient, axis_name)

  @functools.cached_property
  def weights(self):
    """One for every channel of the student."""
    return jax.tree.map(
      lambda x: np.linspace(0.9, 1.1, x.shape[-1], dtype=np.float32),
      self.arguments[0],
    )

  @functools.cached_property
  def traces(self):
    """How often the program has been traced."""
    return 0

  @functools.cached_property
  def program(self):
    """Compiled: value, gradients by all float arguments."""

    def program(arguments, hyper, where):
      vars(self)["traces"] = self.traces + 1
      floating = [_floating(x) for x in arguments]

      def loss(moving):
        mixed = [
          m if f else x
          for m, f, x in zip(moving, floating, arguments, strict=True)
        ]
        return self.mean(mixed, hyper, where)

      moving = [
        x if f else None for x, f in zip(arguments, floating, strict=True)
      ]
      return jax.value_and_grad(loss)(moving)

    return jax.jit(program)

  def run(self, arguments=None, hyper=None, where=None):
    """The program on these arguments, as NumPy arrays."""
    arguments = self.arguments if arguments is None else arguments
    return jax.device_get(
      self.program(
        list(arguments),
        dict(self.hyper if hyper is None else hyper),
        self.mask if where is None else where,
      )
    )


def no_recompilation(case):
  """A hyper-parameter is an argument of the program."""
  case.run()
  before = case.traces
  case.run(hyper={k: 0.75 * v + 0.1 for k, v in case.hyper.items()})
  assert case.traces == before


def teacher_gets_no_gradient(case):
  _, gradients = case.run()
  for leaf in jax.tree.leaves(gradients[0]):
    assert np.any(leaf != 0)
  for leaf in jax.tree.leaves(gradients[1]):
    np.testing.assert_array_equal(leaf, 0)


def masked_examples_do_not_matter(case):
  """Whatever they hold, and as if they were not there."""
  mask = case.mask
  value, gradients = case.run()
  # Where examples are coupled, a single row may spoil the gradient of all.
  for stretch in (3, np.nan) if case.coupled else (3,):
    changed = [
      x
      if i in case.shared
      else jax.tree.map(
        lambda a, stretch=stretch: np.where(
          _rows(mask, a), a, a[::-1] * (stretch if _floating(a) else 1)
        ).astype(a.dtype),
        x,
      )
      for i, x in enumerate(case.arguments)
    ]
    other, other_gradients = case.run(changed)
    _close(other, value, case.tolerance)
    _close(other_gradients[0], gradients[0], case.tolerance)
  for leaf in jax.tree.leaves(gradients[0]):
    np.testing.assert_array_equal(leaf[~mask], 0)
  if case.coupled:
    kept = [
      x if i in case.shared else jax.tree.map(lambda a: a[mask], x)
      for i, x in enumerate(case.arguments)
    ]
    alone = jax.jit(case.mean)(kept, dict(case.hyper), mask[mask])
    _close(alone, value, case.tolerance)


def empty_mask_gives_zero(case):
  value, gradients = case.run(where=np.zeros(16, bool))
  assert value == 0
  for leaf in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(leaf, 0)


def one_example_is_finite(case):
  value, gradients = case.run(where=np.arange(16) == 7)
  _finite(value, gradients)


def extremes_are_finite(case):
  """Stretched, zero, and equal inputs."""
  student, teacher, *rest = case.arguments
  for factor in case.extremes:
    stretched = [
      jax.tree.map(lambda a, f=factor: np.float32(f) * a, x)
      for x in (student, teacher)
    ]
    value, gradients = case.run([*stretched, *rest])
    _finite(value, gradients)
  shapes = [
    jax.tree.map(np.shape, x, is_leaf=lambda x: isinstance(x, np.ndarray))
    for x in (student, teacher)
  ]
  if shapes[0] == shapes[1]:
    _finite(*case.run([teacher, teacher, *rest]))


def nan_reaches_the_value(case):
  """From one entry of any float argument, in a row that counts."""
  for i, argument in enumerate(case.arguments):
    leaves, structure = jax.tree.flatten(argument)
    for j, leaf in enumerate(leaves):
      if i in case.unused or not _floating(leaf):
        continue
      spoiled = leaf.copy()
      if i in case.partly:
        spoiled[...] = np.nan
      else:
        spoiled[(len(leaf) // 2, *(0,) * (leaf.ndim - 1))] = np.nan
      changed = structure.unflatten([*leaves[:j], spoiled, *leaves[j + 1 :]])
      arguments = [*case.arguments[:i], changed, *case.arguments[i + 1 :]]
      value, _ = case.run(arguments)
      assert np.isnan(value), f"NaN in argument {i}, array {j} is lost: {value}"


def half_precision_is_computed_in_float32(case):
  """Only a gradient comes back in the arrays' own precision."""
  arguments = list(case.arguments), dict(case.hyper), case.mask
  computed_in_float32(case.mean, *arguments)
  value, gradients = computed_in_float32(case.program, *arguments, exact=False)
  assert value.dtype == np.float32
  for leaf in jax.tree.leaves(gradients[0]):
    assert leaf.dtype == jnp.bfloat16


def gradients_equal_finite_differences(case):
  """In float64, which stays float64, in reverse and in forward mode."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(2024)
    wide = jax.tree.map(
      lambda a: np.float64(a) if _floating(a) else a, list(case.arguments)
    )
    student, *rest = wide
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), student)
    hyper = dict(case.hyper)

    @jax.jit
    def program(step):
      def along(step):
        moved = jax.tree.map(lambda a, d: a + step * d, student, direction)
        return case.mean([moved, *rest], hyper, case.mask)

      return *jax.jvp(along, (step,), (1.0,)), jax.grad(along)(step)

    value, forward, reverse = program(0.0)
    assert value.dtype == np.float64
    step = 1e-5
    difference = (program(step)[0] - program(-step)[0]) / (2 * step)
    scale = max(abs(difference), 1e-6 * abs(value) / step, 1e-8)
    assert abs(forward - reverse) <= 1e-7 * max(abs(forward), scale)
    assert abs(forward - difference) <= 1e-4 * scale


def vmap_and_devices_equal_the_loop(case):
  """Two batches, mapped over on eight devices, are as one after the other.

  The second is the first in reverse order and stretched. Where examples are
  coupled, `jax.pmap` is asked too.
  """
  pair = jax.tree.map(
    lambda a: np.stack([a, (1.5 if _floating(a) else 1) * a[::-1]]).astype(
      a.dtype
    ),
    list(case.arguments),
  )
  hyper = {k: np.array([v, 0.75 * v + 0.1]) for k, v in case.hyper.items()}
  where = np.stack([case.mask, case.mask])

  def batch(i):
    return jax.tree.map(lambda a: a[i], (pair, hyper))

  def expected(i):
    (student, *rest), numbers = batch(i)
    stretched = jax.tree.map(lambda x, w: x * w, student, case.weights)
    value, gradients = case.run([stretched, *rest], numbers)
    # By the chain rule: the weights stretch the student's channels.
    return value, jax.tree.map(
      lambda x, g: np.sum(x * g, tuple(range(x.ndim - 1))),
      student,
      gradients[0],
    )

  def step(arguments, hyper, where, weights):
    return case.step(arguments, hyper, where, weights, "batch")

  specs = [
    P() if i in case.shared else P(None, "batch") for i in range(len(pair))
  ]
  mesh = jax.make_mesh(
    (DEVICES,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    jax.vmap(step, (0, 0, 0, None)),
    mesh=mesh,
    in_specs=(specs, P(), P(None, "batch"), P()),
    out_specs=P(),
  )
  results = jax.jit(sharded)(pair, hyper, where, case.weights)
  for i in range(2):
    one = jax.tree.map(lambda a, i=i: a[i], results)
    _close(one, expected(i), case.tolerance)
  if case.coupled:
    arguments, numbers = batch(0)
    split = [
      x
      if i in case.shared
      else jax.tree.map(lambda a: a.reshape(DEVICES, -1, *a.shape[1:]), x)
      for i, x in enumerate(arguments)
    ]
    axes = [None if i in case.shared else 0 for i in range(len(split))]
    mapped = jax.pmap(step, "batch", in_axes=(axes, None, 0, None))
    one = jax.tree.map(
      lambda a: a[0],
      mapped(split, numbers, case.mask.reshape(DEVICES, -1), case.weights),
    )
    _close(one, expected(0), case.tolerance)


LAWS = [
  no_recompilation,
  teacher_gets_no_gradient,
  masked_examples_do_not_matter,
  empty_mask_gives_zero,
  one_example_is_finite,
  extremes_are_finite,
  nan_reaches_the_value,
  half_precision_is_computed_in_float32,
  gradients_equal_finite_differences,
  vmap_and_devices_equal_the_loop,
]

SLOW = (gradients_equal_finite_differences, vmap_and_devices_equal_the_loop)


def pairs(cases, without=(), quick=None):
  """The names of cases with the laws that they could break.

  Left out are the laws of `without`, and its pairs of a name and a law.

  The laws that need programs of their own, of many devices and of float64, are
  for the slow tier; the others share one program a case. Where `quick` names
  the telling cases, all laws of the others are for the slow tier too. Without
  it every second case is telling, and of the others the quick tier asks only
  the law that needs no program.
  """
  params = []
  telling = list(cases)[::2] if quick is None else quick
  for name, case in cases.items():
    for law in LAWS:
      if law in without or (name, law) in without:
        continue
      if law is no_recompilation and not case.hyper:
        continue
      of_masks = law in (empty_mask_gives_zero, one_example_is_finite)
      if of_masks and not case.coupled:
        continue
      traced = quick is None and law is half_precision_is_computed_in_float32
      slow = law in SLOW or not (traced or name in telling)
      marks = [pytest.mark.slow] if slow else []
      label = f"{name}-{law.__name__}"
      params.append(pytest.param(name, law, id=label, marks=marks))
  return params


def slopes_agree(function, arguments, tolerance=1e-5):
  """Forward, reverse and difference slopes of a scalar, in one program.

  Along a random direction in all arguments, in float64.
  """
  rng = np.random.default_rng(2024)
  with jax.enable_x64(True):
    arguments = jax.tree.map(np.float64, tuple(arguments))
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), arguments)

    @jax.jit
    def program(step):
      def along(step):
        return function(
          *jax.tree.map(lambda a, d: a + step * d, arguments, direction)
        )

      return *jax.jvp(along, (step,), (1.0,)), jax.grad(along)(step)

    _, forward, reverse = program(0.0)
    step = 1e-6
    difference = float(program(step)[0] - program(-step)[0]) / (2 * step)
  assert abs(difference) > 1e-3
  np.testing.assert_allclose(reverse, forward, rtol=1e-7)
  np.testing.assert_allclose(forward, difference, rtol=tolerance)


def computed_in_float32(program, *arguments, exact=True):
  """bfloat16 arrays are computed with as their float32 copies are.

  Seen in what is traced: the operations are those of float32 arrays, with the
  same constants, and what has a bfloat16 result does not round.

  Args:
    program: what is asked.
    *arguments: its arguments, with arrays in float32.
    exact: whether nothing is computed from what was rounded on the way, as
      gradients by a matrix in bfloat16 may be.

  Returns:
    Shapes and types of the results for bfloat16 arrays.
  """

  def narrow(x):
    floating = jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return jnp.asarray(x, jnp.bfloat16) if floating and np.ndim(x) else x

  wide, half = (
    jax.jit(program).trace(*x)
    for x in (arguments, jax.tree.map(narrow, arguments))
  )
  # The order of independent operations may differ.
  expected = sorted(_operations(wide.jaxpr, exact))
  assert sorted(_operations(half.jaxpr, exact)) == expected
  return half.out_info


# What may have a result in bfloat16, as it rounds nothing; but gradients of an
# input that is used several times are added.
EXACT = {
  "add_any",
  "broadcast_in_dim",
  "convert_element_type",
  "dynamic_slice",
  "dynamic_update_slice",
  "neg",
  "reshape",
  "select_n",
  "slice",
  "squeeze",
  "stop_gradient",
  "transpose",
}


def _operations(jaxpr, exact):
  """Each operation but conversions: name, shapes, dtypes, and constants."""
  operations, rounded = [str(np.asarray(x)) for x in jaxpr.consts], set()
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    inner = [
      ClosedJaxpr(x, ()) if isinstance(x, Jaxpr) else x
      for x in jax.tree.leaves(list(equation.params.values()))
      if isinstance(x, Jaxpr | ClosedJaxpr)
    ]
    for x in inner:
      operations += _operations(x, exact)
    if not inner and name != "convert_element_type":
      operation = name
      for x in (*equation.invars, *equation.outvars):
        operation += f" {x.aval}".replace("bfloat16", "float32")
        # Whole numbers also count the checks of `kdjax.ops.checked`.
        if isinstance(x, Literal) and "float" in str(x.aval):
          value = x.val.tolist() if hasattr(x.val, "tolist") else x.val
          operation += f"={value}"
      operations.append(operation)
    seen, made = (
      {x for x in y if "bfloat16" in str(x.aval) and not isinstance(x, Literal)}
      for y in (equation.invars, equation.outvars)
    )
    assert not made or inner or name in EXACT, name
    # At last a result may be rounded, but nothing is computed from it.
    if seen & rounded:
      assert not exact or made == set(equation.outvars), name
      rounded |= made
    if not seen and (inner or name == "convert_element_type"):
      rounded |= made
  return operations


def _floating(x):
  leaf = jax.tree.leaves(x)[0]
  return jnp.issubdtype(leaf.dtype, jnp.floating)


def _rows(mask, x):
  return mask.reshape(-1, *[1] * (x.ndim - 1))


def _finite(value, gradients):
  for leaf in jax.tree.leaves((value, gradients)):
    assert np.all(np.isfinite(leaf))


def _close(got, expected, tolerance):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    b = np.asarray(b)
    scale = np.max(np.abs(b), initial=1e-6)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def trace(function, *arguments, **options):
  """Traces a call, as compiling it would, and runs nothing.

  Options stay the numbers and words that they are.
  """
  return jax.eval_shape(functools.partial(function, **options), *arguments)
