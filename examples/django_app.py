"""A Django site in one file, with the admin and a sqlite database (pip install django).

    maypole --chdir examples django_app

Then open http://127.0.0.1:8000/admin/ and log in as `admin` with the password `admin`. The first start creates the
database, by default the file `maypole-example.sqlite3` in the directory for temporary files. The variable
DJANGO_DATABASE names another file. With `--workers`, one worker creates the database while the others wait.
"""

import fcntl
import os
import tempfile

import django
from django.conf import settings

DATABASE = os.environ.get("DJANGO_DATABASE", os.path.join(tempfile.gettempdir(), "maypole-example.sqlite3"))

settings.configure(
    DEBUG=False,
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only an example"),
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    STATIC_URL="/static/",
    USE_TZ=True,
)
django.setup()

from django.contrib import admin  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.staticfiles.views import serve  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402


def index(request):
    return HttpResponse("Hello from Django\n", content_type="text/plain")


def users(request):
    return JsonResponse({"users": list(User.objects.order_by("username").values_list("username", flat=True))})


urlpatterns = [
    path("", index),
    path("users", users),
    path("admin/", admin.site.urls),
    # For this example only. In production the web server in front serves these files.
    path("static/<path:path>", serve, {"insecure": True}),
]

# A migration is no work for two workers at a time.
with open(f"{DATABASE}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    call_command("migrate", verbosity=0)
    if not User.objects.filter(username="admin").exists():
        User.objects.create_superuser("admin", "admin@example.com", "admin")

application = get_wsgi_application()
