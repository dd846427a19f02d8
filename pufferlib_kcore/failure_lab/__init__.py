"""The failure lab: worlds whose failures are known, and what tells whether an agent failed in them."""
