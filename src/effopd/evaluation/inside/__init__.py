"""What runs inside the sandbox. These files import only the standard library and one another: nothing else is there."""
