"""The embedded model: data, training, evaluation."""
