"""Returns the environ as JSON, with the name of the application, and spoils it then: it is for this call only."""

import json


def made(name):
    calls = 0

    def application(environ, start_response):
        nonlocal calls
        body = environ["wsgi.input"].read().decode("latin-1")
        said = {key: value for key, value in environ.items() if isinstance(value, str)}
        others = sorted(environ.keys() - said.keys())
        calls += 1
        if calls % 2:
            environ.clear()
        else:
            environ.update(dict.fromkeys(environ, "spoilt"), HTTP_SPOILT="spoilt", SSL_SPOILT="spoilt")
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"name": name, "environ": said, "others": others, "body": body}).encode()]

    return application


main, admin, shop = made("main"), made("admin"), made("shop")
