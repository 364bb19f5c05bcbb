"""From files to rows of tokens: tokenizers, chat templates, sources, benchmarks, batches."""
