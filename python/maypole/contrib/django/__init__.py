"""A Django application for INSTALLED_APPS, with the command `runmaypole`. For tests see `maypole.contrib.django.testing`."""
