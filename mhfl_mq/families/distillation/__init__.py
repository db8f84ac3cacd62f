"""Family 2, distillation: devices exchange what their models say of examples, not what the models are made of."""
