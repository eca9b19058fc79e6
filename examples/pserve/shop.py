"""A Pyramid application, made as PasteDeploy wants it: a function of the ini file's settings.

`development.ini` beside it names it; see there how to run it.
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
