"""The Trio tasks. They know events, wait for the world, and do what actions say."""
