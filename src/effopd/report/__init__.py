"""From saved records to figures. Nothing here imports torch."""
