"""From a checkpoint to a bundle: graphs for every target, proof that they compute the same codec, manifest."""
