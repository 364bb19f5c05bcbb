"""Plans of memory and time: programs compiled for chips that are not present."""
