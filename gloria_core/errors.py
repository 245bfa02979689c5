"""Errors that a user can cause: each message says what arrived, what was expected and what to do."""


class GloriaError(ValueError):
    """Base of every error this library raises on purpose."""


class AnchorError(GloriaError):
    """An anchor image or a set of anchors cannot be used."""


class AudioError(GloriaError):
    """Speech that cannot be read or encoded."""


class CharacterError(GloriaError):
    """A character file that cannot be written or read."""


class CheckpointError(GloriaError):
    """A weights file that is damaged, of another architecture, or does not belong to its base."""


class ConfigError(GloriaError):
    """A training configuration with unknown, missing or contradicting values."""


class CueError(GloriaError):
    """Cues of a timeline that cannot be read, or that name what is not there."""


class DatasetError(GloriaError):
    """A dataset, its manifest or its cache that cannot be used."""


class JournalError(GloriaError):
    """A job folder on disk that cannot be used or written."""


class MediaError(GloriaError):
    """A video that cannot be decoded, encoded or written."""


class PlanError(GloriaError):
    """A length, size or chunk setting that cannot be planned."""


class TrainingError(GloriaError):
    """A training run that cannot start, go on or be resumed."""


class ToyWorldError(GloriaError):
    """A toy character, scene, program or frame that does not exist or cannot be read."""
