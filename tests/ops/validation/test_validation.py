"""Errors name the argument, what came and what was expected."""

import collections.abc

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Integer

from kdjax.ops import (
  as_fraction,
  as_number,
  check_integer,
  check_positive,
  get_entry,
  validate,
)


@validate
def example(
  first: Float[Array, "*batch classes"],
  second: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"] | None = None,
  scalar: Float[Array, ""] | None = None,
):
  return first, second, labels, scalar


def test_numpy_arrays_and_python_numbers_become_arrays():
  x = np.ones((2, 3))
  result = example(x, x, labels=np.zeros(2, np.uint8), scalar=1)
  assert all(isinstance(y, Array) for y in result)


@pytest.mark.parametrize(
  ("arguments", "error", "message"),
  [
    (
      (np.ones((2, 3)), np.ones((1, 3))),
      ValueError,
      r"example: second has shape \(1, 3\); expected \[\*batch classes\] = "
      r"\(2, 3\), as in first",
    ),
    ((np.ones(()), np.ones(())), ValueError, r"first has shape \(\)"),
    (([1.0], [1.0]), TypeError, "first is a list; expected a JAX or NumPy"),
    ((np.ones(3), None), TypeError, "second is a NoneType; expected a JAX or"),
    ((np.arange(3), np.ones(3)), TypeError, "first has dtype int32; expected"),
    (
      (np.ones((2, 3)), np.ones((2, 3)), np.zeros(3, int)),
      ValueError,
      r"labels has shape \(3,\); expected \[\*batch\] = \(2\)",
    ),
  ],
)
def test_arrays(arguments, error, message):
  with pytest.raises(error, match=message):
    example(*arguments)


@pytest.mark.parametrize("value", ["4", None, True])
def test_what_is_no_number(value):
  with pytest.raises(TypeError, match=r"T is .*; expected a number"):
    as_number("T", value, jnp.float32)


@pytest.mark.parametrize(
  "value", [-1, 0.0, np.array([1.0, -2.0]), [1.0, float("inf")], np.float32(0)]
)
def test_static_numbers_that_are_not_positive(value):
  with pytest.raises(ValueError, match=r"T is .*; expected a finite number"):
    check_positive("T", value)


def test_shares_and_shapes():
  assert as_fraction("a", 0.5, jnp.float32, shape=(3,)).shape == ()
  assert as_fraction("a", np.ones(3), jnp.float32, shape=(3,)).shape == (3,)
  with pytest.raises(ValueError, match=r"a has shape \(2,\); expected a scal"):
    as_fraction("a", np.ones(2), jnp.float32, shape=(3,))
  with pytest.raises(ValueError, match=r"a is 1.5; expected .* in \[0.0, 1.0"):
    as_fraction("a", 1.5, jnp.float32)


def test_integers():
  check_integer("n", np.int64(3), 1)
  with pytest.raises(TypeError, match="n is True; expected an integer"):
    check_integer("n", True, 1)
  with pytest.raises(ValueError, match="n is 0; expected an integer from 1"):
    check_integer("n", 0, 1)


def test_a_call_that_does_not_fit_names_the_function():
  x = np.ones((2, 3))
  with pytest.raises(TypeError, match=r"example: .*'label'; expected \(fir"):
    example(x, x, label=1)
  with pytest.raises(TypeError, match="example: too many positional"):
    example(x, x, None, None, None)


def test_each_dtype_has_its_shape():
  @validate
  def loss(
    logits: Float[Array, "batch classes"],
    labels: Integer[Array, " batch"] | Float[Array, "batch classes"],
  ):
    return logits, labels

  words = (
    r"labels has shape \(2,\) and dtype float32; expected integer .*\(2\).* or "
    r"float .*\(2, 3\)"
  )
  with pytest.raises(ValueError, match=words):
    loss(jnp.ones((2, 3)), jnp.ones(2))


def test_a_method_is_named_with_its_class():
  class Net:
    @validate
    def __call__(self, inputs: Float[Array, " batch"]):
      return inputs

  with pytest.raises(TypeError, match=r"^Net.__call__: inputs is a list"):
    Net()([1.0])


@pytest.mark.parametrize(
  ("values", "error", "words"),
  [
    ({"image": 1}, ValueError, r"batch has \['image'\]; expected 'label' too"),
    ((1, 2), TypeError, r"batch is a tuple; expected a mapping with 'label'"),
    (None, TypeError, r"batch is a NoneType; expected a mapping"),
  ],
)
def test_an_entry_that_is_not_there(values, error, words):
  with pytest.raises(error, match=words):
    get_entry("batch", values, "label")


def test_a_numpy_number_out_of_range_is_refused():
  for value in (np.float32(-1), np.array(-1.0)):
    with pytest.raises(
      ValueError, match=r"temperature is -1.0; expected a fin"
    ):
      check_positive("temperature", value)


def test_an_entry_read_when_asked_for_keeps_its_own_error():
  class Lazy(collections.abc.Mapping):
    def __getitem__(self, key):
      raise KeyError("disk/0001.png")

    def __iter__(self):
      return iter(["image"])

    def __len__(self):
      return 1

    def __contains__(self, key):
      return key == "image"

  with pytest.raises(KeyError, match="disk"):
    get_entry("batch", Lazy(), "image")
