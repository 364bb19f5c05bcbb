"""Will it fit, how long will it take: programs compiled for chips that are not there."""
