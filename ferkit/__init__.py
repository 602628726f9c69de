"""ferkit: losses, blocks, samplers and whole methods for learning facial expressions from noisy, ambiguous labels."""

__version__ = "0.1.0"
