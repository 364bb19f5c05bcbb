"""The OpenAI API over the engine: what requests may hold, answers, streams, errors, metrics."""
