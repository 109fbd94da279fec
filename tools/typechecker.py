"""The type checker that the tests hand to jaxtyping's import hook: beartype, but for methods that return `Self`.

The hook decorates one method at a time, and beartype then cannot know which class `Self` is.
"""

from collections.abc import Callable
from typing import Any, Self, TypeVar

from beartype import beartype

Function = TypeVar("Function", bound=Callable[..., Any])


def check(function: Function) -> Function:
    """``function``, checking its arguments and its result when called."""
    return function if Self in function.__annotations__.values() else beartype(function)
