"""What static checks accept and refuse."""

import pytest

from kdjax.ops import padding_explains


@pytest.mark.parametrize(
  ("classes", "rows", "expected"),
  [
    (151_936, 152_064, True),  # Qwen 2, small and large
    (50_257, 50_304, True),  # GPT-2, a multiple of 64
    (84, 148, True),
    (84, 149, False),
    (32_000, 50_257, False),  # Llama and GPT-2
    (50_257, 50_257, True),
  ],
)
def test_padding_explains_a_few_rows(classes, rows, expected):
  assert padding_explains(classes, rows) == expected
