#!/usr/bin/env bash
# The controls of kcore.sh: the same widths by random ablation of the trained run, and the same widths untrained.
kinds=${kinds:-ablated scratch} exec bash "$(dirname "${BASH_SOURCE[0]}")/kcore.sh" "$@"
