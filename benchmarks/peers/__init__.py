"""What embedfleet is measured beside: other engines on the same texts, other servers over HTTP."""


class Missing(Exception):
    """A peer cannot run here; the message says why."""
