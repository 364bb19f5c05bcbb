"""Commands: `python -m launch.NAME`. Only this package reads flags."""
