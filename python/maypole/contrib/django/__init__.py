"""For INSTALLED_APPS: the command `runmaypole`. The live server of tests is in `maypole.contrib.django.testing`."""
