"""What a step draws or searches for: MixUp, partners, adversarial changes, magnitudes."""
