"""NBD in its transmission phase."""
