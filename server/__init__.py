"""The server: batches in, faces kept, shown and erased."""
