"""Everything that knows llama-server's own surface: its binary, its flags, its HTTP control routes."""
