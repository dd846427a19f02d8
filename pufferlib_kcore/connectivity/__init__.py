"""Linear mode connectivity: what lies on the straight line between two policies."""
