"""Logs in a form of their own, and two mistakes that gunicorn ignores."""

bind = "127.0.0.1:8002"
workers = 1
threads = 8
worker_class = "gthread"
accesslog = "access.log"
access_log_format = '%(h)s %(t)s "%(r)s" %(s)s %(D)s %({x-request-id}i)s'
logger_class = "shop.logging.Logger"
logconfig_dict = {"version": 1, "handlers": {}}
max_request = 500
keep_alives = 3
logconfig = "logging.conf"
