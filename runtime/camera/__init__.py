"""The camera: frames in, faces found, encoded, spooled and sent; never torch."""
