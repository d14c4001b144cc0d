"""Products of float32 in bfloat16, with sums in float32, where the CPU multiplies that faster: for gradients, as what
trains models on GPUs does as a rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def short_products() -> Iterator[None]:
    """Within, torch's precision is "medium", in the whole process: products may be rounded so. Our own, written out,
    ask training/products.py, since torch itself does it on few CPUs.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
