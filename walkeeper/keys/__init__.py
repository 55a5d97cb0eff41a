"""Keys from files, the environment and commands; the cryptography is in `walkeeper.codec`."""
