"""What grades functions inside the sandbox. These files import only the standard library and one another."""
