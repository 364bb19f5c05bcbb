"""How clean text becomes noisy."""
