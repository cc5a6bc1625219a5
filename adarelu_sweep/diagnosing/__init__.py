"""What a sweep would find on this machine: looked at, never changed."""
