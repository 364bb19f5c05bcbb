"""What predicts: the masked-diffusion transformer and its weights."""
