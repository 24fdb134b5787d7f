"""The helper package of the course *Inference, Measured*: one idea a module."""
