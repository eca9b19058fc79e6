"""A Pyramid application for PasteDeploy: `main` gets the settings of the ini file and returns the application.

`development.ini` in this directory names it and shows how to run it.
"""

from pyramid.config import Configurator
from pyramid.response import Response


def index(request):
    return Response(f"{request.registry.settings['greeting']} from Pyramid\n", content_type="text/plain")


def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.add_route("index", "/")
        config.add_view(index, route_name="index")
        return config.make_wsgi_app()
