"""Family 1, parameter sharing: devices train parts of one model, and the parts are averaged where they overlap."""
