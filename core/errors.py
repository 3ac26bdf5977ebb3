"""Errors with a promise: the text of a UserError is shown to the person as it is."""


class UserError(Exception):
    """The person can fix it. Three parts: what you gave, why it cannot be, what to do."""


class PictureError(UserError):
    """A picture cannot be opened safely."""


class WeightsError(UserError):
    """Model weights are missing or damaged."""


class DataFolderError(UserError):
    """The data directory cannot be used: read-only, full, or in use by another process."""


class VoteError(UserError):
    """A vote was not counted: its ticket is wrong, expired or already used."""


class AdapterRefused(UserError):
    """An adapter does not fit the base model or is damaged; serving goes on unchanged."""


class Busy(UserError):
    """Too much is waiting; try again shortly."""
