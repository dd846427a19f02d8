"""Other people's trainers: collapse inside them, nothing of theirs edited."""
