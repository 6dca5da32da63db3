"""Networks as pure functions, and changed networks."""
