"""The paper's claims, each as a function from saved records to a number with its interval."""
