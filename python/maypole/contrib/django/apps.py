"""The configuration of the Django application `maypole.contrib.django`."""

# Django comes without types.
# mypy: disable-error-code="import-untyped,misc"

from django.apps import AppConfig


class MaypoleConfig(AppConfig):
    """The configuration for `"maypole.contrib.django"` in INSTALLED_APPS."""

    name = "maypole.contrib.django"
    # The default label would be `django`, the last part of the name.
    label = "maypole"
    verbose_name = "Maypole"
