"""How a student learns."""
