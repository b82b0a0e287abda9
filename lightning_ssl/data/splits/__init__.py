"""Which images are labelled, unlabelled and held out."""
