"""The configuration of the Django application `maypole.contrib.django`."""

# Django comes without types.
# mypy: disable-error-code="import-untyped,misc"

from django.apps import AppConfig


class MaypoleConfig(AppConfig):
    """What Django uses for `"maypole.contrib.django"` in INSTALLED_APPS."""

    name = "maypole.contrib.django"
    # By default it would be `django`, the last part of the name.
    label = "maypole"
    verbose_name = "Maypole"
