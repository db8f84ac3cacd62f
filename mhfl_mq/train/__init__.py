"""Learning on the device: tasks, the layout derived from a model, and a child process that holds torch."""
