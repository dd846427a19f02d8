"""Training: PPO on PufferLib's vectorization, recurrent or not, resumable at any epoch."""
