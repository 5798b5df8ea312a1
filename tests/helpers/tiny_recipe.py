"""The codec that tests train, in a recipe: what comes before the stages."""

TINY = """
[codec]
tokens = 4
codes = 6
groups = 2
dim = 3
image_size = 32
[codec.backbone_options]
encoder_stem = 8
encoder_widths = [8, 8, 16]
encoder_blocks = [0, 0, 1]
encoder_mixers = 1
decoder_stem = 8
decoder_widths = [8, 8, 16]
decoder_blocks = [0, 0, 1]
decoder_mixers = 1
[data]
workers = 0
"""
