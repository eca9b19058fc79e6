"""A shop behind nginx: threads, a unix socket, and workers that are replaced now and then."""

bind = "unix:shop.sock"
backlog = 1024
workers = 2
worker_class = "gthread"
threads = 4
timeout = 300
graceful_timeout = 20
keepalive = 65
max_requests = 1000
max_requests_jitter = 100
preload_app = True
capture_output = True
accesslog = "-"
errorlog = "-"
loglevel = "warn"
proc_name = "shop"
umask = 0o007
