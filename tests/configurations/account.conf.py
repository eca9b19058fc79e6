"""A service that starts as root: user, group, pid file, directories."""

import os

chdir = os.path.dirname(os.path.abspath(__file__))
pythonpath = "/srv/shop/lib,/srv/shop/plugins"
bind = "127.0.0.1:8001"
workers = 3
user = "www-data"
group = "www-data"
pidfile = "/run/shop/shop.pid"
daemon = False
raw_env = ["SHOP_MODE=production", "SHOP_LIST=a,b", "SCRIPT_NAME=/shop"]
tmp_upload_dir = "/var/tmp"
limit_request_line = 0
limit_request_fields = 200
certfile = None
keyfile = ""
