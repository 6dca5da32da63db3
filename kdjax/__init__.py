"""kdjax: knowledge distillation and knowledge transfer in JAX.

Each area is imported by its own name, and nothing else is loaded::

  from kdjax.distillation import kd_loss
  from kdjax.adaptation import h_divergence
"""

__version__ = "0.1.0"
