"""What a MobileNet detector is made of, as a page: computed from the network itself, in English and in Chinese."""

from pocketdet.lesson.lesson import write_lesson
from pocketdet.lesson.texts import LANGUAGES

__all__ = ["LANGUAGES", "write_lesson"]
