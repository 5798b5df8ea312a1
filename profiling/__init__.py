"""What a bundle costs on this machine: time by stage, memory, cold start, and how far the figures can be trusted."""
