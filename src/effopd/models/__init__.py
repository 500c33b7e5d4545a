"""Models by name: where one is, whether it can be loaded, and whether its vocabulary fits another's."""
