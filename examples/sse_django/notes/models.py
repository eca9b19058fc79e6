"""The note."""

from django.db import models


class Note(models.Model):
    """A line of text, which all pages show."""

    id = models.BigAutoField(primary_key=True)
    text = models.TextField()
