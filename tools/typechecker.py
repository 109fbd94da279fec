"""Type checker for jaxtyping's import hook in tests: beartype, except for methods with the annotation `Self`.

The hook decorates one method at a time, so beartype cannot resolve the class of `Self`.
"""

from collections.abc import Callable
from typing import Any, Self, TypeVar

from beartype import beartype

Function = TypeVar("Function", bound=Callable[..., Any])


def check(function: Function) -> Function:
    """``function`` with checks of its arguments and its result."""
    return function if Self in function.__annotations__.values() else beartype(function)
