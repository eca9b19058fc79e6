"""A Django project whose tests use a live server, with the database that DJANGO_DATABASE names (default: in memory)."""

import os
import sys

from django.conf import settings

settings.configure(
    DEBUG=False,
    SECRET_KEY="for tests",
    ALLOWED_HOSTS=[],
    ROOT_URLCONF="live",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.staticfiles"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "CONN_MAX_AGE": 600,
                           "TEST": {"NAME": os.environ.get("DJANGO_DATABASE") or None}}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    STATIC_URL="/static/",
)

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
