"""Text in, batches out: tokenizer, data sources, the grain pipeline, the gsm_mini dataset."""
