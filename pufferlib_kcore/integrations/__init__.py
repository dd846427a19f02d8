"""Other people's libraries: models of theirs in, models of theirs out."""
