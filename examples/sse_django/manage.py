"""A Django site whose pages show new notes at once (pip install maypole django). In this directory:

    python manage.py migrate
    maypole --workers 2 manage:application

The notes are in the database of the site. A thread of each worker looks for new ones.
"""

import os
import sys

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application

settings.configure(
    SECRET_KEY="only an example",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="notes.views",
    INSTALLED_APPS=["notes", "maypole.contrib.django"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3",
                           "NAME": os.environ.get("DJANGO_DATABASE", "site.sqlite3"), "OPTIONS": {"timeout": 30}}},
)
django.setup()
application = get_wsgi_application()

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
