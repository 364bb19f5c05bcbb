"""The masked-diffusion transformer: architecture, layers, attention, and low-rank adapters."""
