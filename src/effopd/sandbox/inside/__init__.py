"""The first code that runs in the sandbox. It imports only the standard library: nothing else of effopd is there."""
