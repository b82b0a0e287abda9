"""Command line from a checkout: ``python cli.py fit --model FixMatch --data.dataset digits``."""

from lightning_ssl.cli import main

if __name__ == "__main__":
    main()
