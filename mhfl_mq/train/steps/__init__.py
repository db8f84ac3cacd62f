"""The device's half of every algorithm: what one minibatch does, and what is sent after the last one."""

from mhfl_mq.train.steps.base import Conclusion, Finished, Job, Kept, Method, PastUpdate, Stepper
from mhfl_mq.train.steps.registry import method_of

__all__ = ["Conclusion", "Finished", "Job", "Kept", "Method", "PastUpdate", "Stepper", "method_of"]
