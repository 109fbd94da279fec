"""Who asks: the user agent that both HTTP clients send, so that a shop can see who crawls it and write to us."""

from importlib.metadata import version

from atlas_model.core.errors import InputError


def user_agent(contact: str) -> str:
    """``Atlas/<version> (+<contact>)``.

    Raises:
        InputError: ``contact`` holds what no HTTP header may.
    """
    if not (contact.isascii() and contact.isprintable()):
        raise InputError(f"contact: expected printable ASCII for the user agent, got {contact!r}")
    return f"Atlas/{version('atlas')} (+{contact})"


def robot_name(agent: str) -> str:
    """The name under which robots.txt and X-Robots-Tag know the user agent ``agent``."""
    return agent.partition("/")[0]
