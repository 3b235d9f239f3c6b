"""The errors that a user can fix. Each message names file, key, value and remedy."""


class ConfigError(ValueError):
    """A setting that cannot be used."""


class DataError(ValueError):
    """Data that cannot be used."""


class MissingLabels(DataError):
    """Data without the labels that an evaluator needs."""
