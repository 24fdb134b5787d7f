"""How the tests train: quickly, and without what only larger pictures need."""

from course_utils.training import Recipe

PLAIN = Recipe(
    epochs=4, batch=50, peak_learning_rate=0.1, flip=False, shift_pixels=0, erase_pixels=0
)
