"""Settings as frozen dataclasses: to JSON and back, to flags, from text; errors name fields."""
