"""Networks of text, and the text that they write."""
