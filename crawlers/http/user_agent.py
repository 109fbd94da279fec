"""The User-Agent of all clients, with a contact for the operators of shops."""

from importlib.metadata import version

from atlas_model.core.errors import InputError


def user_agent(contact: str) -> str:
    """``Atlas/<version> (+<contact>)``.

    Raises:
        InputError: ``contact`` has characters that are not allowed in a header.
    """
    if not (contact.isascii() and contact.isprintable()):
        raise InputError(f"contact: expected printable ASCII for the user agent, got {contact!r}")
    return f"Atlas/{version('atlas')} (+{contact})"


def robot_name(agent: str) -> str:
    """The product token of the user agent ``agent``, which robots.txt and X-Robots-Tag refer to."""
    return agent.partition("/")[0]
