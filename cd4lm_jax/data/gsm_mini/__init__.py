"""gsm_mini: generated grade-school word problems, their TFDS builder and their tokenizer."""
