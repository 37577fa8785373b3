"""Where results go: records, annotated pictures and clips, and the live preview."""
