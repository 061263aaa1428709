"""Looking at stores, checking them, and making new ones out of them. A source is never rewritten."""
