"""A layer's feed-forward part of experts that tokens are routed to. Imported by models that have some, alone."""
