"""The loop once round, end to end, in a workspace of its own under `var/demo/`.

The demo only sends cells and reviews, as a hospital would; what happens next is the product's own doing.
"""
