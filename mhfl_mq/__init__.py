"""Model-heterogeneous federated learning over the MQTT broker that a plant already has."""

__version__ = "0.1.0"

__all__ = ["__version__"]
