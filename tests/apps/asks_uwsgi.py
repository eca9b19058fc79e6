"""A service that asks uWSGI for its place, as the API of OpenStack's neutron does: when the service started, which
worker this is, and how many there are. The worker that is the first does work of its own."""

import json

import uwsgi


def start_time():
    """Returns when the service started. All workers must agree on it."""
    value = uwsgi.opt.get("start-time")
    if value is None:
        raise RuntimeError("start this service with start-time=%t")
    return int(value.decode("utf-8"))


def is_first_worker():
    return uwsgi.worker_id() == 1


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    if name:
        try:
            body = repr(getattr(uwsgi, name))
        except AttributeError as error:
            body = str(error)
    else:
        body = json.dumps(
            {
                "start_time": start_time(),
                "worker_id": uwsgi.worker_id(),
                "numproc": uwsgi.numproc,
                "masterpid": uwsgi.masterpid(),
                "started_on": uwsgi.started_on,
                "name": uwsgi.opt["name"].decode(),
                "is_first": is_first_worker(),
            }
        )
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body.encode()]
