"""Published tokenizers as backbones: one file each, official state-dict keys, reached by the table here.

To add one of your own, see docs/backbones.md: one file, one subclass of `base.Pretrained`, one entry below, or no entry
at all when it is named as "module:Class".
"""

from .base import Pretrained
from .codeformer import CodeFormer
from .maskgit_vqgan import MaskGitVqgan
from .taming_vqgan import TamingVqgan
from .titok import TiTok

PRETRAINED: dict[str, type[Pretrained]] = {
    "codeformer": CodeFormer,
    "maskgit_vqgan": MaskGitVqgan,
    "taming_vqgan": TamingVqgan,
    "titok": TiTok,
}
