"""Commands of the node's control side, executed on the reactor: open, terms, membership, pages, reports."""
