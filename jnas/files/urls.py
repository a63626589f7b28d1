"""Addresses that hold credentials."""

import re


def masked(text: str) -> str:
    """The text with the passwords, tokens and signatures of its URLs hidden.

    >>> masked("postgresql://ann:secret@db/trials")
    'postgresql://ann:***@db/trials'
    >>> masked("postgresql://db/trials?user=ann&password=secret&sslmode=require")
    'postgresql://db/trials?user=ann&password=***&sslmode=require'
    >>> masked("https://host/zoo?X-Amz-Signature=abc&sig=def")
    'https://host/zoo?X-Amz-Signature=***&sig=***'
    """
    text = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
    secret = r"([?&](?:password|passwd|pwd|sig|[\w-]*(?:signature|token|secret|credential|key)[\w-]*)=)[^&\s]*"
    return re.sub(secret, r"\1***", text, flags=re.IGNORECASE)
