"""Chat templates: what makes a prompt of messages, and the process in which it may not take too much."""
