"""The commands: `vrpo NAME` is the module NAME here, which has `add_arguments` and `run`; the other modules are what they share."""
