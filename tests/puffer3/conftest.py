"""PufferLib 3 has an environment of its own (make test-puffer3): elsewhere nothing here is collected."""

from importlib import metadata

try:
    THERE = metadata.version("pufferlib").startswith("3.")
except metadata.PackageNotFoundError:
    THERE = False
collect_ignore_glob = [] if THERE else ["test_*.py"]
