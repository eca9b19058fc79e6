"""The tutorial's steps for root and systemd, without either: the service's settings, command line and nginx half."""

import re
import shutil
import subprocess

import pytest

import snippets
from client import PATIENCE, Client
from process import ROOT, RUNNING, Server


def test_tutorial_service_answers_by_its_socket_and_behind_nginx():
    if not shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin"):
        pytest.skip("nginx is not installed")
    blocks = snippets.blocks(ROOT / "docs" / "tutorial.md")
    files = {block.argument: block for block in blocks if block.action == "file"}
    with snippets.Page() as page:
        for name in ("shop.py", "shop.env", "nginx-shop.conf"):
            page.file(files[name])
        settings = dict(re.findall(r"^(\w+)=(.*)$", (page.directory / "shop.env").read_text(), re.M))
        line = re.search(r"^ExecStart=\S+/maypole (.*)$", files["shop.service"].text, re.M)[1]
        (page.directory / "run" / "shop").mkdir(parents=True, exist_ok=True)
        server = Server(line, [], {**page.env, **settings}, page.directory).wait_ready()
        nginx = subprocess.Popen(
            ["nginx", "-e", "stderr", "-p", page.directory, "-c", page.directory / ".tried-nginx-shop.conf", "-g", "daemon off;"],
            env=page.env, start_new_session=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert server.address == f"unix:{page.directory}/run/shop/shop.sock"
            assert server.get("/").body == b"Welcome to the shop.\n"
            address = f"127.0.0.1:{page.ports['80']}"
            page.wait(lambda: page.answers(address), files["nginx-shop.conf"], nginx, server.err)
            with Client(address) as client:
                response = client.get("/", "User-Agent: curl/7.88.1", "Connection: close")
            assert (response.status, response.body) == (200, b"Welcome to the shop.\n")
            shown = next(b for b in blocks if b.language == "text" and b.action == "test").text.strip()
            logged = server.out.wait(r"(?m)^.* \"GET / HTTP/1.1\" .*curl.*$")[0]
            time = re.compile(r"\[.*?\]")
            assert time.sub("", logged) == time.sub("", shown)
        finally:
            nginx.terminate()
            nginx.wait(PATIENCE)
            server.stop()
            RUNNING.remove(server)
