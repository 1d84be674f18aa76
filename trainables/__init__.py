"""What is trained: one file here is one trainable, and adding a trainable is adding one file."""
