"""A whole network on one machine: one bootstrap peer, two nodes, one gateway, as separate processes."""
