"""State that outlives a step: registered buffers, equal on all processes."""
