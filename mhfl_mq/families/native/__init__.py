"""Family 3, natively heterogeneous architectures: models that have nothing in common but the task."""
