"""Jobs: what the programs do, as functions of small frozen requests, without the command line."""
