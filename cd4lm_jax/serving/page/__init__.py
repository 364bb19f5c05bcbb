"""The page at `/`: a question, and its answer as it is decoded."""
