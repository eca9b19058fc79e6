"""Tells Django about the application `maypole.contrib.django`."""

# Django comes without types.
# mypy: disable-error-code="import-untyped,misc"

from django.apps import AppConfig


class MaypoleConfig(AppConfig):
    """What INSTALLED_APPS gets for `maypole.contrib.django`."""

    name = "maypole.contrib.django"
    # The last part of the name would be `django`.
    label = "maypole"
    verbose_name = "Maypole"
