"""Torch modules: codebooks, router, backbones, the codec, checkpoints."""
