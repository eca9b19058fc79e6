"""A small Pyramid application."""

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import FileResponse, Response


def index(request):
    return Response("Hello from Pyramid\n", content_type="text/plain")


def named(request):
    return {"name": request.matchdict["name"], "query": dict(request.GET)}


def form(request):
    return dict(request.POST)


def upload(request):
    data = request.POST["file"].file.read()
    return {"name": request.POST["file"].filename, "bytes": len(data)}


def source(request):
    return FileResponse(__file__, request, content_type="text/x-python")


def moved(request):
    return HTTPFound(request.route_url("named", name="there"))


def stream(request):
    return Response(app_iter=(b"%d\n" % n for n in range(1000)), content_type="text/plain")


def make():
    with Configurator() as config:
        for name, pattern, view, renderer in [
            ("index", "/", index, None),
            ("named", "/named/{name}", named, "json"),
            ("form", "/form", form, "json"),
            ("upload", "/upload", upload, "json"),
            ("source", "/source", source, None),
            ("moved", "/moved", moved, None),
            ("stream", "/stream", stream, None),
        ]:
            config.add_route(name, pattern)
            config.add_view(view, route_name=name, renderer=renderer)
        return config.make_wsgi_app()


application = make()
