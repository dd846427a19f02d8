"""Worlds to learn in: creators by name, and many of them stepped at once."""
