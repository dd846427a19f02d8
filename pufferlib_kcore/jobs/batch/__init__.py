"""Batch: many collapses of many checkpoints, retrained beside their controls, and a report on all."""
