"""What is searched: one file a space, with SPACE. Adding a space is adding one file here."""
