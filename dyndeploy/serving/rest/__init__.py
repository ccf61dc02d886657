"""REST: the protocol over HTTP, the metrics and the page."""
