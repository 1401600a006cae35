"""Passwords and tokens inside addresses, masked where settings are written down."""

import re
from typing import Any

_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^@/\s]+@")
_SECRET_PARAMETER = re.compile(
    r"([?&](?:[\w-]*(?:token|key|secret|signature|password|credential)[\w-]*|sig)=)[^&\s#]+", re.IGNORECASE
)


def without_secrets(settings: Any) -> Any:
    """Settings as they are written down: passwords and tokens inside addresses are masked.

    >>> without_secrets({"path": "sftp://me:secret@host/a", "url": "https://host/a?token=abc&page=2"})
    {'path': 'sftp://me:***@host/a', 'url': 'https://host/a?token=***&page=2'}
    """
    if isinstance(settings, dict):
        return {name: without_secrets(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [without_secrets(value) for value in settings]
    if isinstance(settings, str) and "://" in settings:
        return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1***@", settings))
    return settings
