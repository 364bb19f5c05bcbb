"""Generated grade-school word problems, their TFDS dataset and their tokenizer."""
