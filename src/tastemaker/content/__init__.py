"""What an item says: text encoders, language models, item tokenisers, constrained decoding."""
