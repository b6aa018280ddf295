"""What service, training and monitoring agree on: no torch, no network, no framework."""
