"""What the tests of the conformance kit share: classes that a reference can name, and what the kit says of them."""

from __future__ import annotations

from typing import Any

import pytest

from bitrl.testing import ConformanceError


def target(cls: type) -> str:
    """A reference to a class made inside a test."""
    name = f"Target{cls.__qualname__.replace('.', '_').replace('<', '').replace('>', '')}"
    globals()[name] = cls
    return f"{__name__}:{name}"


def refusal(check: Any, component: Any, **arguments: Any) -> str:
    with pytest.raises(ConformanceError) as caught:
        check(component, **arguments)
    return str(caught.value)
