"""The views of the project."""

from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse, JsonResponse
from django.urls import path


def users(request):
    return JsonResponse({"users": sorted(User.objects.values_list("username", flat=True)), "db": connection.settings_dict["NAME"]})


def add(request, name):
    User.objects.create(username=name)
    return HttpResponse(status=201)


urlpatterns = [path("users", users), path("add/<name>", add)]
