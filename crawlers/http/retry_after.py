"""The Retry-After header: how long a server asks to be left alone. Knows no client, and no limit to that wish."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds(header: str | None) -> float | None:
    """The seconds that ``header`` asks for, not negative; None where it is missing or means nothing.

    It is a number or a date (RFC 9110, 10.2.3): https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
