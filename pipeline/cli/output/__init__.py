"""What a command prints: its result on stdout; messages, progress and errors on stderr."""
