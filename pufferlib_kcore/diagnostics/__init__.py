"""What policies and runs tell of themselves: measures of a network, and detectors over metrics."""
