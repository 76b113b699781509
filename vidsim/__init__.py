"""vidsim: training and sampling of video generation models in JAX."""

__version__ = "0.1.0"
