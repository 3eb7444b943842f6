"""The embedded student: a small vision-language model from weights that arrive with pip.

See docs/embedded_student.md.
"""
