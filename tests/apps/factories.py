"""Applications by every way of naming one."""


def saying(text):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text.encode()]

    return application


class holder:
    inner = staticmethod(saying("inner"))


app = saying("app")


def make():
    return saying("made")


def make_with(text, count=1):
    return saying(text * count)


def failing():
    raise ValueError("no application today")
