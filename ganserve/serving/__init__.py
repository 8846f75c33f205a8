"""The server: requests in, media out. Each room calls only the next (ARCHITECTURE.md)."""
