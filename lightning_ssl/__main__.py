"""``python -m lightning_ssl``: the same as ``lightning-ssl``."""

from lightning_ssl.cli.main import main

if __name__ == "__main__":
    main()
