"""Commands that are not trainer subcommands: one typed function per file."""
