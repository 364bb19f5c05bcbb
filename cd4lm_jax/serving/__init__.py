"""Serving: one engine over the compiled loop, the OpenAI API in front of it, and a page."""
