"""The deploy daemon: supervisor, real-time loop, policy worker, shared memory between them, robot drivers."""
