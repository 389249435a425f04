"""Screen rules: cheap checks of a row's carried values and picture, and of its web text, before any model sees them.

Each rule is pure: it knows the row it is asked about and nothing of tables or other rows. The names they give are the closed
codes of the pool's `error` (rows) and `captions[].rule` (texts). docs/screen.md says what each rejects of real data.
"""

from capfilt.filters.rules.pictures import ImageRules, ScreenedRow
from capfilt.filters.rules.texts import JudgedText, TextRules

__all__ = ["ImageRules", "JudgedText", "ScreenedRow", "TextRules"]
