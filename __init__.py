"""stcq: faces in 33 to 400 bytes with Switchable Token-Specific Codebook Quantization.

>>> from stcq import Codec
>>> codec = Codec.load()                 # the bundle inside the package
>>> packet = codec.encode(image)         # uint8 (H, W, 3) or a PIL image -> bytes
>>> decoded = codec.decode(packet)       # uint8 (128, 128, 3)
"""

# Absolute, unlike elsewhere: pytest imports this file alone when the name of its folder is no identifier.
from stcq.errors import StcqError
from stcq.runtime.codec import Codec

__version__ = "0.1.0"
__all__ = ["Codec", "StcqError", "__version__"]
